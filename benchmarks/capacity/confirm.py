"""One GPU's share of the fleet, sent to a real server: the plan against what is measured, before the others are bought.

Each camera has a connection and a thread of its own and sends its frames when they are due; a latency counts from then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.plan import KindPlan
from benchmarks.capacity.request import CapacityRequest
from benchmarks.capacity.simulation import PERCENTILES, pinned
from benchmarks.queueing.batcher import simulate
from clients.batches import Batch
from clients.contract import Contract, contract_from_config
from clients.errors import ClientError
from clients.wire.transport import Transport, connect

if TYPE_CHECKING:
    from clients.options import ConnectionOptions

WARM_UP = 5
"""Requests before, of each camera, that do not count."""
TIMEOUT_S = 30.0
START_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """The busiest GPU's cameras on a real server, and the simulation of exactly these frames."""

    url: str
    model: str
    streams: int
    frames: int
    failed: int
    measured_ms: dict[int, float]
    """By percentile, of the answered frames."""
    simulated_ms: dict[int, float]
    within: float
    """Answered within the goal / frames."""
    holds: bool
    server_batch: int
    """The largest batch of the server's configuration."""
    planned_batch: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def confirm(request: CapacityRequest, plan: KindPlan, url: str, model: str, options: ConnectionOptions) -> Confirmation:
    """Send the frames that the plan's busiest GPU gets, for ``request.confirm_s``, and simulate the same frames.

    Raises:
        ClientError: the server cannot be reached, or does not serve the model; frames that fail are counted.
    """
    assert plan.planned is not None, "a plan without GPUs has nothing to confirm"
    streams = max(pinned(request.streams, plan.planned))
    due_s_SF = _due(request, streams)
    latency_s_SF, contract = _measured(due_s_SF, url, model, options)
    order = np.argsort(due_s_SF, axis=None)
    server = plan.sized.server
    simulated = simulate(plan.sized.batcher, server.drawn(np.random.default_rng(request.seed)), due_s_SF.ravel()[order])
    answered_s = latency_s_SF[~np.isnan(latency_s_SF)]
    within = float((answered_s <= request.sla_ms / 1e3).sum() / latency_s_SF.size)
    return Confirmation(
        url=url,
        model=model,
        streams=streams,
        frames=latency_s_SF.size,
        failed=latency_s_SF.size - answered_s.size,
        measured_ms=_percentiles_ms(answered_s),
        simulated_ms=_percentiles_ms(simulated.latency_s[~np.isnan(simulated.latency_s)] + server.overhead_s),
        within=within,
        holds=within >= request.percentile / 100,
        server_batch=contract.max_batch_size,
        planned_batch=plan.sized.batcher.max_batch,
    )


def _due(request: CapacityRequest, streams: int) -> NDArray[np.float64]:
    """When each frame of each camera is due, in seconds from the start, FLOAT64 [streams, frames]."""
    rng = np.random.default_rng(request.seed)
    frames = max(1, round(request.confirm_s * request.fps))
    due_s_SF = rng.uniform(0, 1 / request.fps, (streams, 1)) + np.arange(frames) / request.fps
    jitter_s_SF = rng.normal(0, request.jitter_ms / 1e3, due_s_SF.shape)
    # A camera's frames come in their order.
    sorted_s_SF: NDArray[np.float64] = np.sort(np.clip(due_s_SF + jitter_s_SF, 0, None), axis=1)
    return sorted_s_SF


def _measured(
    due_s_SF: NDArray[np.float64], url: str, model: str, options: ConnectionOptions
) -> tuple[NDArray[np.float64], Contract]:
    """The latency of each frame, NaN where it failed."""
    latency_s_SF = np.full(due_s_SF.shape, np.nan)
    with contextlib.ExitStack() as stack:
        cameras = [stack.enter_context(contextlib.closing(connect(url, options))) for _ in due_s_SF]
        contract = contract_from_config(cameras[0].model_config(model, "", TIMEOUT_S), model=model)
        pixels = np.random.default_rng(0).integers(0, 256, (1, *contract.size_hw, 3), np.uint8)
        batch = Batch(contract=contract, images_BHWC=pixels, letterboxes=())
        for camera in cameras:
            for _ in range(WARM_UP):
                camera.infer(batch, TIMEOUT_S)
        start_s = time.monotonic() + START_S
        threads = [
            threading.Thread(target=_camera, args=(camera, batch, start_s + due_s_F, latency_s_F), daemon=True)
            for camera, due_s_F, latency_s_F in zip(cameras, due_s_SF, latency_s_SF, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return latency_s_SF, contract


def _camera(camera: Transport, batch: Batch, due_s_F: NDArray[np.float64], latency_s_F: NDArray[np.float64]) -> None:
    for frame, due_s in enumerate(due_s_F.tolist()):
        time.sleep(max(0.0, due_s - time.monotonic()))
        try:
            camera.infer(batch, TIMEOUT_S)
        except ClientError:
            continue
        latency_s_F[frame] = time.monotonic() - due_s


def _percentiles_ms(latency_s: NDArray[np.float64]) -> dict[int, float]:
    if not latency_s.size:
        return {}
    return dict(zip(PERCENTILES, map(float, np.percentile(latency_s, PERCENTILES) * 1e3), strict=True))
