"""What of the estimated service times is known to be true: published measurements, and how far the estimate is off."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from builder.gpus import find_gpu
from builder.graph_cost import GraphCost
from builder.service_time import service_time_ms

# Ultralytics: GFLOPs an image at 640 px.
_GFLOPS = {
    "yolo11n": 6.5,
    "yolo11s": 21.5,
    "yolo11m": 68.0,
    "yolo11l": 86.9,
    "yolo11x": 194.9,
    "yolov8n": 8.7,
    "yolov8s": 28.6,
    "yolov8m": 78.9,
    "yolov8l": 165.2,
    "yolov8x": 257.8,
}
_MEASURED_MS = {
    # docs.ultralytics.com/compare/yolo11-vs-yolov8: TensorRT 10, FP16, batch 1.
    "t4": {
        "yolo11n": 1.5,
        "yolo11s": 2.5,
        "yolo11m": 4.7,
        "yolo11l": 6.2,
        "yolo11x": 11.3,
        "yolov8n": 1.47,
        "yolov8s": 2.66,
        "yolov8m": 5.86,
        "yolov8l": 9.06,
        "yolov8x": 14.37,
    },
    # docs.ultralytics.com/models/yolov8: TensorRT, batch 1.
    "a100-40gb": {"yolov8n": 0.99, "yolov8s": 1.20, "yolov8m": 1.83, "yolov8l": 2.39, "yolov8x": 3.53},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownCase:
    """A published measurement of a single image, and the estimate of the same."""

    network: str
    gpu: str
    measured_ms: float
    estimated_ms: float

    @property
    def error(self) -> float:
        """Estimate / measurement - 1: above 0 where the estimate is too long."""
        return self.estimated_ms / self.measured_ms - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateError:
    """How far the estimate is off over several cases."""

    cases: int
    lowest: float
    highest: float
    median_of_sizes: float
    """Of the errors without their signs."""

    @classmethod
    def of(cls, cases: Sequence[KnownCase]) -> EstimateError:
        """Over one case or more."""
        errors = [case.error for case in cases]
        return cls(
            cases=len(errors),
            lowest=min(errors),
            highest=max(errors),
            median_of_sizes=statistics.median(map(abs, errors)),
        )

    def __str__(self) -> str:
        return f"{self.lowest:+.0%} to {self.highest:+.0%}, {self.median_of_sizes:.0%} in the median"


def known_cases() -> tuple[KnownCase, ...]:
    """Every measurement that the estimate can be compared with."""
    return tuple(
        KnownCase(network=network, gpu=gpu, measured_ms=measured_ms, estimated_ms=_estimate(network, gpu))
        for gpu, measured in _MEASURED_MS.items()
        for network, measured_ms in measured.items()
    )


def error_lines() -> list[str]:
    """What to print beside an estimate."""
    cases = known_cases()
    by_gpu = {gpu: EstimateError.of([case for case in cases if case.gpu == gpu]) for gpu in _MEASURED_MS}
    told = "; ".join(f"{gpu} {error} ({error.cases})" for gpu, error in by_gpu.items())
    return [
        f"ESTIMATE: service times from FLOPs, bytes and the datasheet. Off by {told} of the published times of single "
        "images; above 0 it is too long.",
        "Batches above 1, other GPUs and INT8 were compared with no measurement: measure with benchmarks load on the "
        "GPU, and give --report.",
    ]


def _estimate(network: str, gpu: str) -> float:
    cost = GraphCost(
        multiply_adds=round(_GFLOPS[network] * 1e9 / 2),
        fp32_share=0.0,
        weight_bytes=0,
        layers=0,
        # The published figures name no traffic; that of these networks never binds at batch 1.
        traffic_bytes=0,
        unsized_tensors=0,
        buffers=(),
    )
    estimated_ms = service_time_ms(cost, find_gpu(gpu), 1)
    assert estimated_ms is not None, f"{gpu} has its peak in the table"
    return estimated_ms
