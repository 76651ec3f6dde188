"""The GPUs beside a running server: their memory, and the bus to them, by NVML."""

from __future__ import annotations

from typing import Any

from benchmarks.diagnose.evidence import GpuEvidence, Missing
from builder.nvml import GpuGauge

LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""One lane, one direction, what is left after its encoding, by PCI Express generation."""


class BusGauge(GpuGauge):
    """Watches memory and bus of every GPU; ``close`` it. Raises NoGpuError as GpuGauge."""

    def __init__(self) -> None:
        """Connect to the driver."""
        super().__init__()
        self._bus: list[list[float]] = [[] for _ in self._gpus]

    def look(self) -> None:
        """Read the bus once: NVML counts for 20 ms, both ways."""
        nvml = self._nvml
        for seen, gpu in zip(self._bus, self._gpus, strict=True):
            ways = [
                self._told(nvml.nvmlDeviceGetPcieThroughput, gpu, way)
                for way in (nvml.NVML_PCIE_UTIL_TX_BYTES, nvml.NVML_PCIE_UTIL_RX_BYTES)
            ]
            known = [way for way in ways if way is not None]
            if known:
                # In KB/s (nvml.h).
                seen.append(max(known) * 1e3)

    def evidence(self, server_pids: frozenset[int], allocated_bytes: int) -> tuple[GpuEvidence, ...]:
        """What was seen of each GPU; what the models allocated is known for all GPUs together."""
        return tuple(
            self._of(gpu, seen, server_pids, allocated_bytes) for gpu, seen in zip(self._gpus, self._bus, strict=True)
        )

    def _of(self, gpu: Any, seen: list[float], server_pids: frozenset[int], allocated_bytes: int) -> GpuEvidence:
        nvml = self._nvml
        name = nvml.nvmlDeviceGetName(gpu)
        memory = self._told(nvml.nvmlDeviceGetMemoryInfo, gpu)
        generation = self._told(nvml.nvmlDeviceGetCurrPcieLinkGeneration, gpu)
        width = self._told(nvml.nvmlDeviceGetCurrPcieLinkWidth, gpu)
        widest = self._told(nvml.nvmlDeviceGetMaxPcieLinkWidth, gpu)
        lane = LANE_BYTES_PER_S.get(generation or 0)
        return GpuEvidence(
            name=name.decode() if isinstance(name, bytes) else str(name),
            used_bytes=int(memory.used)
            if memory is not None
            else Missing("the driver does not tell this GPU's memory"),
            server_bytes=self._server_bytes(gpu, server_pids),
            allocated_bytes=self._allocated(allocated_bytes),
            bus_bytes_per_s=tuple(seen)
            if seen
            else Missing("the driver counts no bus traffic of this GPU (MIG, vGPU?)"),
            link_bytes_per_s=lane * width if lane and width else Missing("the driver does not tell the link's speed"),
            link=f"generation {generation} x{width}",
            is_full_link=not (width and widest and width < widest),
        )

    def _allocated(self, allocated_bytes: int) -> int | Missing:
        if len(self._gpus) > 1:
            return Missing("Triton's models are spread over several GPUs: run it on one to tell whose memory is whose")
        return allocated_bytes or Missing(
            "Triton tells of no GPU memory that its models took as they were loaded (memory_usage in its statistics)"
        )

    def _server_bytes(self, gpu: Any, server_pids: frozenset[int]) -> int | Missing:
        processes = self._told(self._nvml.nvmlDeviceGetComputeRunningProcesses, gpu) or []
        found = [each.usedGpuMemory for each in processes if each.pid in server_pids]
        if not found or None in found:
            return Missing(
                "the driver does not tell what the server's processes hold of this GPU: in a container they have other "
                "numbers than outside; run diagnose on the host"
            )
        return sum(map(int, found))

    def _told(self, read: Any, *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except self._nvml.NVMLError:
            return None
