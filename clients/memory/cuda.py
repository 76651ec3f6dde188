"""Regions of a GPU's memory that a Triton server on the same machine maps: needs an NVIDIA GPU and cuda-python.

The letterbox runs on the CPU, so pictures are written to pinned memory of the machine, and copied to the GPU from
there: that saves the server the copy, not the client. **This has never been run on a GPU**; what was run without one is
that it says so in one line.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.errors import one_line
from clients.memory.control import MemoryControl
from clients.memory.regions import MemoryKind, Place, SharedMemoryUnavailableError, new_name
from clients.memory.ring import MakeRegion
from clients.wire.steps import Steps, Work

# What cudaMalloc aligns to at least (CUDA C++ programming guide).
_ALIGNMENT = 256


def cuda_regions(device: int = 0) -> MakeRegion:
    """What makes the regions of a ring on one GPU; raises SharedMemoryUnavailableError where there is none."""
    cuda = _Cuda(device)
    return lambda input_bytes, output_bytes: CudaRegion(cuda, input_bytes, output_bytes)


class CudaRegion:
    """A region on a GPU, with a copy of its input and output in the machine's memory."""

    kind = MemoryKind.CUDA

    def __init__(self, cuda: _Cuda, input_bytes: int, output_bytes: int) -> None:
        self.name = new_name()
        self._cuda = cuda
        self._output_offset = -(-input_bytes // _ALIGNMENT) * _ALIGNMENT
        self._byte_size = self._output_offset + output_bytes
        self._address = cuda.allocate(self._byte_size)
        try:
            self._host, staging = cuda.pinned(self._byte_size)
        except SharedMemoryUnavailableError:
            cuda.free(self._address)
            raise
        self.input: NDArray[np.uint8] = staging[:input_bytes]
        self._output: NDArray[np.uint8] = staging[self._output_offset :]

    def register(self, control: MemoryControl, timeout_s: float) -> Steps[None]:
        """Have the server map it."""
        handle = self._cuda.handle(self._address)
        yield from control.register_cuda(self.name, handle, self._cuda.device, self._byte_size, timeout_s)

    def input_place(self, byte_size: int) -> Place:
        """The input begins the region."""
        return Place(self.name, 0, byte_size)

    def output_place(self, byte_size: int) -> Place:
        """The output follows the whole input."""
        return Place(self.name, self._output_offset, byte_size)

    def send(self, byte_size: int) -> Steps[None]:
        """Copy the input's first bytes to the GPU."""
        yield Work(lambda: self._cuda.copy(self._address, self._host, byte_size))

    def receive(self, byte_size: int) -> NDArray[np.uint8]:
        """A copy of the output's first bytes, by way of the machine's memory."""
        self._cuda.copy(self._host + self._output_offset, self._address + self._output_offset, byte_size)
        return self._output[:byte_size].copy()

    def close(self) -> None:
        """Give the memory back on this side."""
        del self.input, self._output
        self._cuda.free(self._address)
        self._cuda.free_pinned(self._host)


class _Cuda:
    """The few calls of CUDA's runtime that are needed, on one device."""

    def __init__(self, device: int) -> None:
        try:
            # By name: its types are not known to mypy.
            cudart: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise _unavailable(
                f"cuda-python is not installed ({one_line(error)})", "pip install cuda-python"
            ) from error
        self.device = device
        self._cudart = cudart
        hint = "use shared memory of the machine, send='shared-memory'"
        count = self._call("cudaGetDeviceCount", hint=hint)
        if not 0 <= device < count:
            raise _unavailable(f"expected a GPU number below {count}, got {device}", hint)

    def allocate(self, byte_size: int) -> int:
        """Memory of the GPU."""
        return int(self._call("cudaMalloc", byte_size))

    def pinned(self, byte_size: int) -> tuple[int, NDArray[np.uint8]]:
        """Memory of the machine that the GPU reads directly: its address, and itself as an array."""
        import ctypes

        address = int(self._call("cudaMallocHost", byte_size))
        buffer = (ctypes.c_uint8 * byte_size).from_address(address)
        return address, np.ctypeslib.as_array(buffer)

    def handle(self, address: int) -> bytes:
        """What another process maps the memory by, in base64."""
        import base64
        import ctypes

        handle = self._call("cudaIpcGetMemHandle", address)
        size = self._cudart.CUDA_IPC_HANDLE_SIZE
        return base64.b64encode(bytes((ctypes.c_char * size).from_address(handle.getPtr())))

    def copy(self, to: int, source: int, byte_size: int) -> None:
        """Copy and wait; the addresses say themselves on which side they are."""
        self._call("cudaMemcpy", to, source, byte_size, self._cudart.cudaMemcpyKind.cudaMemcpyDefault)

    def free(self, address: int) -> None:
        """Give the GPU's memory back."""
        with contextlib.suppress(SharedMemoryUnavailableError):
            self._call("cudaFree", address)

    def free_pinned(self, address: int) -> None:
        """Give the machine's memory back."""
        with contextlib.suppress(SharedMemoryUnavailableError):
            self._call("cudaFreeHost", address)

    def _call(self, name: str, *arguments: Any, hint: str = "read the server's log and nvidia-smi") -> Any:
        # The current device is each thread's own.
        if name != "cudaGetDeviceCount":
            self._cudart.cudaSetDevice(self.device)
        try:
            status, *results = getattr(self._cudart, name)(*arguments)
        except RuntimeError as error:
            raise _unavailable(f"CUDA cannot be used ({one_line(error)})", hint) from error
        if status != self._cudart.cudaError_t.cudaSuccess:
            raise _unavailable(f"{name} failed with {getattr(status, 'name', status)}", hint)
        return results[0] if results else None


def _unavailable(reason: str, hint: str) -> SharedMemoryUnavailableError:
    return SharedMemoryUnavailableError(f"no CUDA shared memory: {reason}; {hint}")
