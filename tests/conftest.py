"""What every test may use."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from builder.nvml import NoGpuError, read_devices
from builder.server import ServerOptions, TritonServer

FreePorts = Callable[[int], tuple[int, ...]]
StartServer = Callable[..., TritonServer]

# A test asserts no time: the machine may be busy with another. Two runs of one commit draw the same examples, so that
# what fails was broken by a change; `pytest --hypothesis-profile=explore` draws new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; the reason says why, and when the test was last run."""
    try:
        read_devices()
    except NoGpuError as e:
        for item in items:
            if marker := item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"{e}; {marker.kwargs['reason']}"))


@pytest.fixture(scope="session")
def free_ports() -> FreePorts:
    """``free_ports(3)``: ports of 127.0.0.1 on which nothing listens."""

    def find(count: int) -> tuple[int, ...]:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return tuple(each.getsockname()[1] for each in sockets)

    return find


@pytest.fixture(scope="module")
def triton_server(free_ports: FreePorts) -> Iterator[StartServer]:
    """``triton_server(repository, **options)``: a ready TritonServer on free ports; the module's end stops it."""
    servers: list[TritonServer] = []

    def start(repository: Path, **options: Any) -> TritonServer:
        http_port, grpc_port, metrics_port = free_ports(3)
        ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
        server = TritonServer(ServerOptions(repository=repository, **{**ports, **options}))
        server.start()
        servers.append(server)
        return server

    yield start
    # Triton takes seconds to stop, most of which it sleeps.
    with ThreadPoolExecutor() as pool:
        list(pool.map(TritonServer.stop, servers))
