"""How long a GPU takes for a batch: an estimate from a graph's cost, to plan with until it is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost

FIXED_MS = 1.1
"""Of every batch: launches, and layers too small to fill the GPU."""
EFFICIENCY = 0.29
"""The part of the FP16 peak that the rest runs at."""


def service_time_ms(cost: GraphCost, gpu: GpuTarget, batch: int) -> float | None:
    """Milliseconds that the network takes for one batch, transfers and queueing aside: an ESTIMATE.

    ``FIXED_MS + FLOPs / (EFFICIENCY x FP16 peak with FP32 accumulation)``, and no less than the activations' traffic
    takes at the memory's full bandwidth, caches aside. None where the GPU's FP16 figure is not known, and for a network
    in FP32, which does not run on the units that the figure is of. An INT8 network is taken for one in FP16: it may be
    faster, or slower.

    The two constants are fitted to Ultralytics' figures for the T4, TensorRT 10, FP16, 640 px, batch 1
    (docs.ultralytics.com/compare/yolo11-vs-yolov8): of YOLO11 n to x (1.5, 2.5, 4.7, 6.2, 11.3 ms at 6.5, 21.5, 68.0,
    86.9, 194.9 GFLOPs) and YOLOv8 n to x (1.47, 2.66, 5.86, 9.06, 14.37 ms at 8.7, 28.6, 78.9, 165.2, 257.8 GFLOPs)
    each is met within 11 %. For the A100 Ultralytics gives 0.99, 1.20, 1.83, 2.39 and 3.53 ms for YOLOv8 n to x: there
    the estimate is 7 to 23 % too long. Larger batches and other GPUs were not compared.
    """
    peak_tflops = gpu.fp16_tflops_accumulating_fp32
    if peak_tflops is None or cost.fp32_share > 0.5:
        return None
    compute_ms = batch * cost.gflops / (EFFICIENCY * peak_tflops)
    return max(FIXED_MS + compute_ms, traffic_time_ms(cost, gpu, batch))


def traffic_time_ms(cost: GraphCost, gpu: GpuTarget, batch: int) -> float:
    """Milliseconds that the activations of one batch take at the memory's full bandwidth, caches aside."""
    return batch * cost.traffic_bytes / (gpu.bandwidth_gb_s * 1e9) * 1e3
