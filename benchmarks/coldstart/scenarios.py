"""What is done with a server to be timed: a start, a switch between two models, idling."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.coldstart.client import WarmClient
from benchmarks.coldstart.figures import Alternation, Idling, Requests, Start, Switch
from benchmarks.coldstart.server import load_times, logged_server
from benchmarks.coldstart.variants import Warmup
from benchmarks.machine import OtherLoad
from builder.errors import ServerError
from builder.server import TritonServer
from clients.contract import Contract
from clients.models.control import ModelControl

PROJECT = Path(__file__).parents[2]
END_S = 20.0
"""What a keepwarm that was asked to end may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What is asked of a model."""

    contract: Contract
    pictures_PHWC: NDArray[np.uint8]
    config_name: str | None
    """The configuration that serves it; None: ``config.pbtxt``."""

    @property
    def name(self) -> str:
        """On the server."""
        return self.contract.model


@dataclass
class Others:
    """What other processes used of the CPU while requests were timed, over all servers."""

    busy_s: float = 0.0
    watched_s: float = 0.0

    @contextlib.contextmanager
    def beside(self, server: TritonServer) -> Iterator[None]:
        """Count while the block runs."""
        load, started = OtherLoad(server.pid), time.monotonic()
        yield
        seconds = time.monotonic() - started
        self.busy_s += seconds * load.share()
        self.watched_s += seconds

    def share(self) -> float:
        """Of the whole machine."""
        return self.busy_s / self.watched_s if self.watched_s else 0.0


def start(repository: Path, model: Model, warmup: Warmup, requests: int, others: Others) -> Start:
    """Start tritonserver with one model, and send requests from the moment it is READY.

    Raises:
        ServerError: it does not start.
        ClientError: it refuses a request.
    """
    with logged_server(repository, (model.name,), model.config_name) as (server, log):
        with others.beside(server), WarmClient(server.grpc_url, model.contract, model.pictures_PHWC) as client:
            latencies_ms = client.latencies_ms(requests)
            with WarmClient(server.grpc_url, model.contract, model.pictures_PHWC) as newcomer:
                new_connection_ms = newcomer.latency_ms()
        times = load_times(log.read_text(errors="replace"), model.name, server.ready_after_s)
        return Start(
            model=model.name,
            warmup=warmup,
            ready_s=server.ready_after_s,
            up_s=times.up_s,
            load_s=times.load_s,
            requests=Requests(latencies_ms=latencies_ms),
            new_connection_ms=new_connection_ms,
        )


def switch_and_alternate(
    repository: Path, pair: tuple[Model, Model], requests: int, others: Others
) -> tuple[list[Switch], Alternation]:
    """Load the second model and unload the first, and back; then have both loaded and ask them in turns.

    Raises:
        ServerError: the server does not start.
        ClientError: it does not load or unload a model, or refuses a request.
    """
    one, two = pair
    with (
        logged_server(repository, (one.name,), one.config_name) as (server, _),
        ModelControl(server.grpc_url) as control,
        others.beside(server),
    ):
        with WarmClient(server.grpc_url, one.contract, one.pictures_PHWC) as client:
            client.latencies_ms(requests)
        switches = [_switch(server, control, old, new, requests) for old, new in ((one, two), (two, one))]
        control.load(two.name)
        return switches, _alternate(server, pair, requests)


def _switch(server: TritonServer, control: ModelControl, old: Model, new: Model, requests: int) -> Switch:
    started = time.perf_counter()
    control.load(new.name)
    loaded = time.perf_counter()
    control.unload(old.name)
    control.wait_until_unloaded(old.name)
    unloaded = time.perf_counter()
    with WarmClient(server.grpc_url, new.contract, new.pictures_PHWC) as client:
        latencies_ms = client.latencies_ms(requests)
    return Switch(
        to=new.name,
        load_s=loaded - started,
        unload_s=unloaded - loaded,
        requests=Requests(latencies_ms=latencies_ms),
    )


def _alternate(server: TritonServer, pair: tuple[Model, Model], requests: int) -> Alternation:
    with contextlib.ExitStack() as stack:
        clients = {
            each.name: stack.enter_context(WarmClient(server.grpc_url, each.contract, each.pictures_PHWC))
            for each in pair
        }
        alone = {name: Requests(latencies_ms=client.latencies_ms(requests)) for name, client in clients.items()}
        turns = [{name: client.latency_ms() for name, client in clients.items()} for _ in range(requests)]
    return Alternation(
        alone_ms={name: each.steady_ms for name, each in alone.items()},
        alternating_ms={name: median(turn[name] for turn in turns) for name in clients},
    )


def idle(
    server: TritonServer, model: Model, *, idle_s: float, keepwarm_s: float | None, requests: int, others: Others
) -> Idling:
    """Ask a warm server nothing for a while, or let ``python -m clients keepwarm`` ask it; then send requests.

    Raises:
        ServerError: keepwarm ended before it was told to.
        ClientError: the server refuses a request.
    """
    with WarmClient(server.grpc_url, model.contract, model.pictures_PHWC) as client:
        with others.beside(server):
            before_ms = Requests(latencies_ms=client.latencies_ms(requests)).steady_ms
        if keepwarm_s is None:
            time.sleep(idle_s)
        else:
            _keep_warm(server, model.name, idle_s, keepwarm_s)
        # This process has idled as well, and its own coldness is not what is asked for.
        client.touch()
        with others.beside(server):
            latencies_ms = client.latencies_ms(requests)
    return Idling(
        model=model.name,
        idle_s=idle_s,
        keepwarm_s=keepwarm_s,
        before_ms=before_ms,
        requests=Requests(latencies_ms=latencies_ms),
    )


def _keep_warm(server: TritonServer, model: str, idle_s: float, keepwarm_s: float) -> None:
    command = [sys.executable, "-m", "clients", "keepwarm", "--model", model, "--url", server.grpc_url]
    process = subprocess.Popen(
        [*command, "--every", f"{keepwarm_s:f}"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        # It speaks after its first round, which its imports come before.
        select.select([process.stdout, process.stderr], [], [], END_S)
        time.sleep(idle_s)
        process.terminate()
        _, errors = process.communicate(timeout=END_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode or errors:
        last = (errors.splitlines() or [f"exit code {process.returncode}"])[-1]
        raise ServerError(f"expected python -m clients keepwarm to keep {model} warm, got: {last}")
