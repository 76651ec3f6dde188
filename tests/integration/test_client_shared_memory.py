"""Shared memory with a real tritonserver: the same answers, and nothing left however either side ends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from builder.server import ServerOptions, TritonServer
from clients import (
    AsyncDetector,
    ClientError,
    DeadlineExceededError,
    Detections,
    Detector,
    ImageError,
    InferenceError,
)
from clients.memory.regions import SHARED_MEMORY, is_left_behind, unlink_left_behind
from clients.selection import Selection
from tests.conftest import FreePorts, StartServer
from tests.integration.test_client import (
    PATIENT_S,
    SIZE_HW,
    assert_found,
    held,
    picture,
    wait_until,
    write_detector,
)

ROOT = Path(__file__).resolve().parents[2]


def may_mount() -> bool:
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return bool(shutil.which("unshare")) and subprocess.run(mount, check=False, capture_output=True).returncode == 0


CLIENT = """
import os, sys, time
from clients import Detector
import numpy as np

detector = Detector(sys.argv[1], "painted", send="shared-memory")
detector.detect_batch([np.zeros((9, 9, 3), np.uint8)] * 3)
print(os.getpid(), flush=True)
match sys.argv[2]:
    case "error": raise ValueError("out of colour")
    case "exit": pass
    case _: time.sleep(60)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    write_detector(repository, "painted")
    write_detector(repository, "late", max_batch=1)
    write_detector(repository, "failing", error="out of paint")
    return repository


@pytest.fixture(scope="module")
def server(repository: Path, triton_server: StartServer) -> TritonServer:
    return triton_server(repository)


@pytest.fixture(params=["grpc", "http"])
def url(server: TritonServer, request: pytest.FixtureRequest) -> str:
    return server.grpc_url if request.param == "grpc" else server.http_url


@pytest.fixture(autouse=True)
def nothing_is_left(server: TritonServer) -> Iterator[None]:
    unlink_left_behind()  # of runs that were killed
    yield
    assert segments() == []
    assert regions(server) == set()


def segments() -> list[str]:
    """Files of this process, of those that it has started, and of killed ones: other runs have theirs for a moment."""
    found = [path.name for path in SHARED_MEMORY.glob("yolo_triton_client*")]
    return [name for name in found if is_left_behind(name) or os.getpid() in family(int(name.split("_")[3]))]


def family(pid: int) -> set[int]:
    """A process and its parent; nobody where it has ended."""
    with contextlib.suppress(OSError):
        return {pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])}
    return set()


def regions(server: TritonServer) -> set[str]:
    """What the server has registered."""
    with triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        return set(client.get_system_shared_memory_status().regions)


def rectangle(index: int) -> tuple[np.ndarray, dict[int, tuple[int, int, int, int]]]:
    """A picture of the model's size like no other."""
    box = {index % 3: (index, index // 2, index + 40, 90)}
    return picture(*SIZE_HW, box), box


class TestAnswers:
    def test_they_are_those_of_pixels_in_the_request(self, url: str, caplog: pytest.LogCaptureFixture) -> None:
        images = [picture(100 + 30 * n, 300 - 10 * n, {n % 3: (5, 10, 60 + 9 * n, 50 + n)}) for n in range(10)]
        with Detector(url, "painted") as plain, Detector(url, "painted", send="shared-memory") as shared:
            expected = [plain.detect(image) for image in images]
            assert [shared.detect(image) for image in images] == expected
            assert shared.detect_batch(images) == expected
            assert list(shared.detect_many(images)) == expected
        assert caplog.records == []

    def test_only_what_is_selected_is_kept(self, url: str) -> None:
        image = picture(*SIZE_HW, {0: (0, 0, 20, 20), 1: (30, 30, 50, 50), 2: (60, 60, 90, 90)})
        with Detector(url, "painted", send="shared-memory") as detector:
            assert detector.detect(image, selection=Selection(maximum=2)).class_id.tolist() == [0, 1]
            assert len(detector.detect(image)) == 3

    def test_an_event_loop_gets_the_same(self, url: str) -> None:
        async def detect() -> list[Detections]:
            async with AsyncDetector(url, "painted", send="shared-memory") as detector:
                found = [each async for each in detector.detect_many(images)]
                assert await detector.detect_batch(images) == found
                assert await asyncio.gather(*map(detector.detect, images)) == found
                return found

        images = [rectangle(index)[0] for index in range(12)]
        for index, found in enumerate(asyncio.run(detect())):
            assert_found(found, rectangle(index)[1], SIZE_HW)

    def test_many_threads_get_their_own(self, url: str) -> None:
        with Detector(url, "painted", send="shared-memory") as detector, ThreadPoolExecutor(8) as pool:
            images, boxes = zip(*map(rectangle, range(64)), strict=True)
            for found, box in zip(pool.map(detector.detect, images), boxes, strict=True):
                assert_found(found, box, SIZE_HW)

    def test_regions_are_registered_once(self, server: TritonServer, url: str) -> None:
        with Detector(url, "painted", send="shared-memory") as detector:
            assert len(registered := regions(server)) == 1
            for _ in range(20):
                detector.detect(picture(9, 9, {}))
            assert regions(server) == registered
            assert segments() == []

    def test_image_that_cannot_be_read_costs_no_region(self, server: TritonServer, url: str) -> None:
        with Detector(url, "painted", send="shared-memory") as detector:
            registered = regions(server)
            for _ in range(3):
                with pytest.raises(ImageError):
                    detector.detect(b"<html>")
            assert regions(server) == registered
            assert_found(detector.detect(rectangle(1)[0]), rectangle(1)[1], SIZE_HW)

    def test_error_of_the_model_is_passed_on(self, url: str) -> None:
        with Detector(url, "failing", send="shared-memory") as detector:
            for _ in range(3):
                with pytest.raises(InferenceError, match="out of paint"):
                    detector.detect(picture(9, 9, {}))

    def test_late_request_never_gets_into_anothers_answer(self, server: TritonServer, url: str) -> None:
        # One request at a time: the second waits for longer than it may, and is computed or dropped after that.
        with (
            Detector(url, "late", timeout_s=PATIENT_S) as plain,
            Detector(url, "late", timeout_s=4, send="shared-memory") as shared,
            ThreadPoolExecutor(1) as pool,
        ):
            assert_found(shared.detect(rectangle(3)[0]), rectangle(3)[1], SIZE_HW)
            before = regions(server)
            with held(server, "late") as entered:
                other = pool.submit(plain.detect, rectangle(4)[0])
                wait_until(entered.exists)
                with pytest.raises(DeadlineExceededError):
                    shared.detect(rectangle(5)[0])
            assert_found(other.result(), rectangle(4)[1], SIZE_HW)
            indices = itertools.cycle(range(7, 11))

            def is_given_up() -> bool:
                image, box = rectangle(next(indices))
                assert_found(shared.detect(image), box, SIZE_HW)
                return not regions(server) & before

            # What was late lies in a region that is lent to no request again, and that the server forgets in time.
            wait_until(is_given_up)


class TestEndOfTheClient:
    def start(self, url: str, how: str) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, url, how],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    @pytest.mark.parametrize(("how", "code"), [("exit", 0), ("error", 1)])
    def test_interpreters_exit_gives_everything_back(self, server: TritonServer, url: str, how: str, code: int) -> None:
        process, _ = self.start(url, how)
        assert process.wait() == code
        assert regions(server) == set()

    def test_sigterm_gives_everything_back_and_ends_the_process_as_ever(self, server: TritonServer, url: str) -> None:
        process, pid = self.start(url, "sleep")
        assert {name.split("_")[3] for name in regions(server)} == {str(pid)}
        process.terminate()
        assert process.wait() == -signal.SIGTERM
        assert regions(server) == set()

    def test_next_client_removes_what_a_killed_one_left_on_the_server(self, server: TritonServer, url: str) -> None:
        process, _ = self.start(url, "sleep")
        alive, _ = self.start(url, "sleep")
        both = regions(server)
        process.kill()
        process.wait()
        # Nothing to be cleaned up by hand, even if no client ever comes again.
        assert segments() == []
        with Detector(url, "painted", send="shared-memory"):
            owners = {int(name.split("_")[3]) for name in regions(server)}
            assert owners == {alive.pid, os.getpid()}
        assert regions(server) < both
        alive.terminate()
        alive.wait()


class TestRefusal:
    def check(self, url: str, caplog: pytest.LogCaptureFixture, hint: str) -> None:
        caplog.set_level(logging.WARNING)
        with Detector(url, "painted", send="shared-memory") as detector:
            for index in range(5):
                assert_found(detector.detect(rectangle(index)[0]), rectangle(index)[1], SIZE_HW)
            assert len(detector.detect_batch([rectangle(index)[0] for index in range(9)])) == 9
        (record,) = caplog.records
        assert record.name == "clients.memory.sharing"
        assert record.levelname == "WARNING"
        assert "images go in the requests" in record.message
        assert hint in record.message

    def test_restricted_api_is_said_once_and_images_go_in_the_requests(
        self, repository: Path, triton_server: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = triton_server(
            repository,
            models=("painted",),
            extra_args=(
                "--grpc-restricted-protocol=shared-memory:key=secret",
                "--http-restricted-api=shared-memory:key=secret",
            ),
        )
        self.check(server.grpc_url, caplog, "ConnectionOptions.headers")
        caplog.clear()
        self.check(server.http_url, caplog, "ConnectionOptions.headers")

    @pytest.mark.skipif(not may_mount(), reason="only root of the machine may give a process a /dev/shm of its own")
    def test_client_with_a_dev_shm_of_its_own_sends_images_in_the_requests(self, url: str) -> None:
        code = (
            "import logging, sys, numpy as np; from clients import Detector; logging.basicConfig()\n"
            "with Detector(sys.argv[1], 'painted', send='shared-memory') as detector:\n"
            "    print(sum(len(detector.detect(np.zeros((9, 9, 3), np.uint8))) for _ in range(3)))\n"
        )
        alone = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        result = subprocess.run(
            ["unshare", "--mount", "sh", "-c", alone, "sh", sys.executable, "-c", code, url],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stdout) == (0, "0\n")
        (line,) = result.stderr.splitlines()
        assert line.startswith("WARNING:clients.memory.sharing:images go in the requests")
        assert "Unable to open shared memory region" in line
        assert "--ipc=host" in line


def test_server_killed_and_restarted_under_load(repository: Path, free_ports: FreePorts) -> None:
    http_port, grpc_port, metrics_port = free_ports(3)
    options = ServerOptions(
        repository=repository,
        models=("painted",),
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
    )
    outcomes: list[ClientError | bool] = []
    stop = threading.Event()

    def call(detector: Detector) -> None:
        index = 0
        while not stop.is_set():
            index = (index + 1) % 80
            image, box = rectangle(index)
            try:
                found = detector.detect(image)
            except ClientError as error:
                outcomes.append(error)
                time.sleep(0.02)
            else:
                assert_found(found, box, SIZE_HW)
                outcomes.append(True)

    with TritonServer(options) as server, ThreadPoolExecutor(6) as pool:
        detectors = [
            Detector(url, "painted", timeout_s=5, send="shared-memory") for url in (server.grpc_url, server.http_url)
        ]
        calls = [pool.submit(call, detector) for detector in detectors * 3]
        try:
            for _ in range(3):
                wait_until(functools.partial(more_than, outcomes, len(outcomes) + 50))
                os.kill(server.pid, signal.SIGKILL)
                server.stop()
                server.start()
            for detector in detectors:
                wait_until(functools.partial(answers, detector))
        finally:
            stop.set()
        for each in calls:
            each.result()
        for detector in detectors:
            detector.close()
        assert regions(server) == set()
    assert True in outcomes
    assert any(isinstance(outcome, ClientError) for outcome in outcomes)


def more_than(things: Sized, count: int) -> bool:
    return len(things) > count


def answers(detector: Detector) -> bool:
    try:
        return len(detector.detect(rectangle(5)[0])) == 1
    except ClientError:
        return False
