"""The server is killed and started again under load: every request ends in a result or in a typed error."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.server import ServerOptions, TritonServer
from clients import AsyncDetector, ClientError, Detections, Detector
from tests.conftest import FreePorts
from tests.integration.test_client import assert_found, picture, write_detector

BOXES = {0: (10, 10, 50, 50), 1: (60, 20, 100, 90)}
IMAGE = picture(96, 128, BOXES)
TIMEOUT_S = 5.0
KILLS = 20
GIVE_UP_S = 60.0
"""For what has to come: far beyond what it takes, so that only a hanging request meets it."""


class Load:
    """Requests one after the other, counted by how they ended."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[BaseException] = []
        self.stop = threading.Event()

    def note(self, outcome: Detections | BaseException) -> None:
        match outcome:
            case Detections():
                assert_found(outcome, BOXES, IMAGE.shape[:2])
                self.outcomes["answered"] += 1
            case ClientError():
                self.outcomes[type(outcome).__name__] += 1
            case _:
                self.unexpected.append(outcome)

    def run(self, detect: Callable[[], Detections]) -> None:
        while not self.stop.is_set():
            try:
                self.note(detect())
            except BaseException as error:
                self.note(error)
                # A refused connection fails at once.
                time.sleep(0.01)

    async def run_async(self, url: str) -> None:
        async with AsyncDetector(url, "painted", timeout_s=TIMEOUT_S) as detector:
            while not self.stop.is_set():
                try:
                    self.note(await detector.detect(IMAGE))
                except Exception as error:
                    self.note(error)
                    await asyncio.sleep(0.01)

    def wait_for_answers(self, more: int) -> None:
        wanted = self.outcomes["answered"] + more
        give_up = time.monotonic() + GIVE_UP_S
        while self.outcomes["answered"] < wanted:
            assert time.monotonic() < give_up, f"no answers any more: {self.outcomes}"
            time.sleep(0.02)


@contextmanager
def loads(server: TritonServer) -> Iterator[list[Load]]:
    """Four kinds of client, two requests of each at a time."""
    made = [Load() for _ in range(4)]
    detectors = [Detector(url, "painted", timeout_s=TIMEOUT_S) for url in (server.grpc_url, server.http_url)]
    threads = [
        threading.Thread(target=load.run, args=(lambda detector=detector: detector.detect(IMAGE),))
        for load, detector in zip(made, detectors, strict=False)
        for _ in range(2)
    ] + [
        threading.Thread(target=lambda load=load, url=url: asyncio.run(load.run_async(url)))
        for load, url in zip(made[2:], (server.grpc_url, server.http_url), strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for load in made:
            load.stop.set()
        for thread in threads:
            thread.join(GIVE_UP_S)
        assert not any(thread.is_alive() for thread in threads), "a request did not end"
        for detector in detectors:
            detector.close()


def test_every_request_ends_while_the_server_is_killed_and_started_again(tmp_path: Path, free_ports: FreePorts) -> None:
    write_detector(tmp_path / "repository", "painted")
    http_port, grpc_port, metrics_port = free_ports(3)
    options = ServerOptions(
        repository=tmp_path / "repository", http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port
    )
    server = TritonServer(options)
    server.start()
    try:
        with loads(server) as made:
            for _ in range(KILLS):
                for load in made:
                    load.wait_for_answers(5)
                os.kill(server.pid, signal.SIGKILL)
                server.stop()
                server = TritonServer(options)
                server.start()
            for load in made:
                load.wait_for_answers(5)
    finally:
        server.stop()
    for load in made:
        assert load.unexpected == []
        assert load.outcomes["ServerUnavailableError"] > 0, load.outcomes
        assert load.outcomes["answered"] >= 5 * (KILLS + 1)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_readiness_follows_the_server(tmp_path: Path, free_ports: FreePorts, protocol: str) -> None:
    write_detector(tmp_path / "repository", "painted")
    http_port, grpc_port, metrics_port = free_ports(3)
    options = ServerOptions(
        repository=tmp_path / "repository", http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port
    )
    with TritonServer(options) as server:
        detector = Detector(server.grpc_url if protocol == "grpc" else server.http_url, "painted")
        assert detector.is_ready()
    assert not detector.is_ready()
    with TritonServer(options):
        give_up = time.monotonic() + GIVE_UP_S
        while not detector.is_ready():
            assert time.monotonic() < give_up
            time.sleep(0.1)
    detector.close()
