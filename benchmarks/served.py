"""The same graph through a real tritonserver: over gRPC, and with the pictures in system shared memory."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.closed_loop import Call
from builder.config_pbtxt import CPU_CONFIG_NAME
from builder.errors import ServerError
from builder.server import TritonServer
from builder.server_options import ServerOptions
from clients.batches import Batch
from clients.contract import INPUT, OUTPUT, Contract
from clients.wire.transport import connect


@contextlib.contextmanager
def triton_server(repository: Path, *models: str, config_name: str = CPU_CONFIG_NAME) -> Iterator[TritonServer]:
    """A ready tritonserver on free ports of the loopback, with these configurations of the models."""
    http_port, grpc_port, metrics_port = free_ports(3)
    options = ServerOptions(
        repository=repository,
        config_name=config_name,
        models=models,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
    )
    with TritonServer(options) as server:
        yield server


def free_ports(count: int) -> list[int]:
    """Ports of the loopback on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def grpc_callers(
    server: TritonServer, contract: Contract, pictures_PHWC: NDArray[np.uint8], count: int
) -> Iterator[tuple[Call, ...]]:
    """Callers with a channel each, which send the pixels in the request as ``clients.Detector`` does."""
    batches = [Batch(contract=contract, images_BHWC=picture_HWC[None], letterboxes=()) for picture_HWC in pictures_PHWC]
    with contextlib.ExitStack() as stack:

        def caller() -> Call:
            transport = connect(server.grpc_url)
            stack.callback(transport.close)
            return lambda picture: transport.infer(batches[picture % len(batches)], timeout_s=60)

        yield tuple(caller() for _ in range(count))


@contextlib.contextmanager
def shared_memory_callers(
    server: TritonServer, contract: Contract, pictures_PHWC: NDArray[np.uint8], count: int
) -> Iterator[tuple[Call, ...]]:
    """Callers with a channel each, whose requests name the place of their pixels in a region that the server maps.

    The pictures are in the region before anything is timed, as in process they are in memory: ``clients.letterbox``
    writes where it is told to.
    """
    import tritonclient.grpc as grpcclient
    from tritonclient.utils import InferenceServerException

    address = server.grpc_url.removeprefix("grpc://")
    requested = [grpcclient.InferRequestedOutput(OUTPUT)]
    with contextlib.ExitStack() as stack:
        try:
            region = stack.enter_context(_registered(address, pictures_PHWC))
        except InferenceServerException as error:
            raise ServerError(
                f"expected tritonserver to map a shared-memory region, got: {error.message()}; from release 26.04 on "
                "it does so with --allow-client-shm=true alone"
            ) from error
        inputs = []
        for index, picture_HWC in enumerate(pictures_PHWC):
            tensor = grpcclient.InferInput(INPUT, [1, *picture_HWC.shape], "UINT8")
            tensor.set_shared_memory(region, picture_HWC.nbytes, offset=index * picture_HWC.nbytes)
            inputs.append([tensor])

        def caller() -> Call:
            client = grpcclient.InferenceServerClient(address)
            stack.callback(client.close)
            return lambda picture: client.infer(
                contract.model, inputs[picture % len(inputs)], outputs=requested, client_timeout=60
            ).as_numpy(OUTPUT)

        yield tuple(caller() for _ in range(count))


@contextlib.contextmanager
def _registered(address: str, pictures_PHWC: NDArray[np.uint8]) -> Iterator[str]:
    """The pictures in a region of system shared memory, which is gone at the end, from the server and the machine."""
    import tritonclient.grpc as grpcclient
    from tritonclient.utils import shared_memory

    name = f"yolo_triton_benchmark_{os.getpid()}_{secrets.token_hex(4)}"
    with contextlib.closing(grpcclient.InferenceServerClient(address)) as client:
        region = shared_memory.create_shared_memory_region(name, name, pictures_PHWC.nbytes, create_only=True)
        try:
            shared_memory.set_shared_memory_region(region, [pictures_PHWC])
            client.register_system_shared_memory(name, name, pictures_PHWC.nbytes)
            try:
                yield name
            finally:
                client.unregister_system_shared_memory(name)
        finally:
            shared_memory.destroy_shared_memory_region(region)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerCounters:
    """What Triton counted of one model; the times are sums over the requests, in nanoseconds."""

    requests: int
    executions: int
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int

    def __add__(self, other: ServerCounters) -> ServerCounters:
        return ServerCounters(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        )

    def __sub__(self, other: ServerCounters) -> ServerCounters:
        return ServerCounters(
            **{each.name: getattr(self, each.name) - getattr(other, each.name) for each in fields(self)}
        )

    def to_json(self) -> dict[str, float]:
        """Per request: mean_batch = requests / executions, since every request has one image, and mean milliseconds."""
        requests, executions = max(self.requests, 1), max(self.executions, 1)
        times = (each.name.removesuffix("_ns") for each in fields(self) if each.name.endswith("_ns"))
        return {
            "requests": self.requests,
            "executions": self.executions,
            "mean_batch": self.requests / executions,
            **{f"{name}_ms": getattr(self, f"{name}_ns") / 1e6 / requests for name in times},
        }


def server_counters(server: TritonServer, model: str) -> ServerCounters:
    """Triton's statistics of the model since it was loaded."""
    import tritonclient.grpc as grpcclient

    with contextlib.closing(grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))) as client:
        stats: Any = client.get_inference_statistics(model).model_stats[0]
    times = stats.inference_stats
    return ServerCounters(
        requests=stats.inference_count,
        executions=stats.execution_count,
        queue_ns=times.queue.ns,
        compute_input_ns=times.compute_input.ns,
        compute_infer_ns=times.compute_infer.ns,
        compute_output_ns=times.compute_output.ns,
    )


def server_version(server: TritonServer) -> str:
    """The version that tritonserver says it is."""
    import tritonclient.grpc as grpcclient

    with contextlib.closing(grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))) as client:
        return str(client.get_server_metadata().version)
