"""A fleet frame by frame: cameras pinned to GPUs, on a usual day, at the peak, in a rollout, and with one GPU lost.

A camera's connection lives on one server, so that streams are dealt out round robin and stay; the streams of a GPU
that is lost are dealt out over the others, going on where the dealing had stopped. Frames come periodically, each
camera with its own phase and jitter. Every run of one request gives the same figures.

Legend: L latencies, one for each frame.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.server_model import ServerModel
from benchmarks.capacity.two_versions import simulate_versions
from benchmarks.queueing.arrivals import cameras, poisson
from benchmarks.queueing.batcher import Batcher, simulate

FEWEST_SERVERS, MOST_SERVERS = 4, 48
"""Of a larger fleet as many are simulated as the frames suffice for, with few and with many streams in proportion."""
FEWEST_STREAMS = 256
"""A smaller fleet is simulated several times, with other phases: few cameras may take turns, or collide, by chance."""
FRAMES = 40_000
LONGEST_S, SHORTEST_S, FEWEST_PERIODS = 20.0, 2.0, 20
HOURS, PEAK_HOUR, LEAST_FACTOR = 24, 15, 0.1
PERCENTILES = (50, 90, 95, 99)

Frames = NDArray[np.float64]
_Server = TypeVar("_Server")


class Scenario(enum.StrEnum):
    """What happens to the fleet."""

    NORMAL = "normal"
    LOST = "one GPU lost"
    ROLLOUT = "two versions"
    PEAK = "daily peak"
    POISSON = "normal, if Poisson"
    """For comparison: cameras are no independent users."""

    @property
    def judged(self) -> bool:
        """Whether the goal must hold in it."""
        return self is not Scenario.POISSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """Cameras, GPUs of one kind, and the goal."""

    streams: int
    fps: float
    gpus: int
    server: ServerModel
    batcher: Batcher
    sla_s: float
    percentile: int
    peak: float = 1.3
    """Frames a second at the day's busiest hour / those of its mean."""
    jitter_s: float = 0.005
    reconnect_s: float = 1.0
    """Until the cameras of a lost GPU send to another."""
    frames: int = FRAMES
    """Of a scenario, about: how long it is simulated follows from it."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the bounds; raises ValueError."""
        if min(self.streams, self.gpus, self.frames) < 1 or min(self.fps, self.sla_s) <= 0 or self.peak < 1:
            raise ValueError(f"expected streams, GPUs, a rate, a goal and a peak from 1, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of the frames of one scenario; frames = answered + refused + lost."""

    gpus: int
    """That serve, the lost one not among them."""
    frames: int
    answered: int
    refused: int
    """By a full queue, or after waiting too long."""
    lost: int
    """Under way when their GPU was lost, or sent before their camera had another."""
    latency_ms: dict[int, float] | None
    """By percentile, of the answered frames that are judged; None where there are none."""
    within: float
    """Answered within the goal / frames that came to a GPU that served; after the loss, where one is lost."""
    holds: bool
    """Whether the share within the goal is the percentile that the goal names, or more."""

    def __post_init__(self) -> None:
        """No frame disappears."""
        assert self.frames == self.answered + self.refused + self.lost, f"frames are missing: {self}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def pinned(streams: int, gpus: int) -> list[int]:
    """How many streams each GPU has, dealt out round robin."""
    return [streams // gpus + (gpu < streams % gpus) for gpu in range(gpus)]


def pinned_after_loss(streams: int, gpus: int) -> list[tuple[int, int]]:
    """Of each GPU but the first, which is lost: the streams that it had, and those that it gets."""
    had = pinned(streams, gpus)
    survivors = list(range(1, gpus))
    gets = dict.fromkeys(survivors, 0)
    start = next((place for place, gpu in enumerate(survivors) if gpu >= streams % gpus), 0)
    for number in range(had[0] if survivors else 0):
        gets[survivors[(start + number) % len(survivors)]] += 1
    return [(had[gpu], gets[gpu]) for gpu in survivors]


def simulate_scenario(fleet: Fleet, scenario: Scenario) -> Outcome:
    """What becomes of the frames of a fleet."""
    if scenario is Scenario.LOST:
        return _with_loss(fleet)
    factor = fleet.peak if scenario is Scenario.PEAK else 1.0
    return _steady(replace(fleet, fps=fleet.fps * factor), _SERVED[scenario])


def daily_profile(fleet: Fleet) -> list[tuple[float, Outcome]]:
    """For each hour the load as a factor of the mean, and the outcome, of a quarter of the frames.

    factor(h) = 1 + (peak - 1) cos(2 pi (h - PEAK_HOUR) / 24), and no less than ``LEAST_FACTOR``.
    """
    angles = [2 * math.pi * (hour - PEAK_HOUR) / HOURS for hour in range(HOURS)]
    factors = [round(max(LEAST_FACTOR, 1 + (fleet.peak - 1) * math.cos(angle)), 6) for angle in angles]
    by_factor = {
        factor: _steady(replace(fleet, fps=fleet.fps * factor, frames=fleet.frames // 4 or 1), _one_version)
        for factor in set(factors)
    }
    return [(factor, by_factor[factor]) for factor in factors]


_Serve = Callable[[Fleet, int, float, np.random.Generator], list[Frames]]
"""Latencies of the frames of one GPU with so many streams, for so many seconds; a list for each of its queues."""


def _one_version(fleet: Fleet, streams: int, duration_s: float, rng: np.random.Generator) -> list[Frames]:
    return [_latencies(fleet, _frames(fleet, streams, duration_s, rng), rng)]


def _two_versions(fleet: Fleet, streams: int, duration_s: float, rng: np.random.Generator) -> list[Frames]:
    halves = (streams - streams // 2, streams // 2)
    arrivals = [_frames(fleet, half, duration_s, rng) for half in halves]
    served = simulate_versions(fleet.batcher, fleet.server.drawn(rng), arrivals)
    return [each + fleet.server.overhead_s for each in served]


def _if_poisson(fleet: Fleet, streams: int, duration_s: float, rng: np.random.Generator) -> list[Frames]:
    return [_latencies(fleet, poisson(streams * fleet.fps, duration_s, rng), rng)] if streams else []


_SERVED: dict[Scenario, _Serve] = {
    Scenario.NORMAL: _one_version,
    Scenario.PEAK: _one_version,
    Scenario.ROLLOUT: _two_versions,
    Scenario.POISSON: _if_poisson,
}


def _steady(fleet: Fleet, serve: _Serve) -> Outcome:
    counts = _sampled(pinned(fleet.streams, fleet.gpus), fleet)
    rounds, duration_s = _rounds(fleet), _duration_s(fleet, sum(counts))
    latency_s_L = _joined(
        latency_s
        for round_ in range(rounds)
        for gpu, streams in enumerate(counts)
        for latency_s in serve(fleet, streams, duration_s, _random(fleet, round_, gpu))
    )
    return _outcome(fleet, fleet.gpus, latency_s_L, latency_s_L, lost=0)


def _with_loss(fleet: Fleet) -> Outcome:
    """The first GPU is lost after a quarter of the time; what comes to the others from then on is judged."""
    survivors = _sampled(pinned_after_loss(fleet.streams, fleet.gpus), fleet)
    had = pinned(fleet.streams, fleet.gpus)[0]
    rounds = _rounds(fleet)
    duration_s = _duration_s(fleet, had + sum(own + got for own, got in survivors)) + fleet.reconnect_s
    lost_at_s = duration_s / 4
    back_at_s = min(lost_at_s + fleet.reconnect_s, duration_s)
    all_L, judged_L, lost = [], [], 0
    for round_ in range(rounds):
        rng = _random(fleet, round_, fleet.gpus)
        before_s = _frames(fleet, had, back_at_s if survivors else duration_s, rng)
        served_s = before_s[before_s < lost_at_s]
        latency_s = _latencies(fleet, served_s, rng)
        under_way = served_s + np.nan_to_num(latency_s) > lost_at_s
        lost += int(under_way.sum()) + before_s.size - served_s.size
        all_L.append(latency_s[~under_way])
        for gpu, (own, got) in enumerate(survivors, start=1):
            rng = _random(fleet, round_, gpu)
            own_s = _frames(fleet, own, duration_s, rng)
            got_s = back_at_s + _frames(fleet, got, duration_s - back_at_s, rng)
            arrivals_s = np.sort(np.concatenate([own_s, got_s]))
            latency_s = _latencies(fleet, arrivals_s, rng)
            all_L.append(latency_s)
            judged_L.append(latency_s[arrivals_s >= lost_at_s])
    return _outcome(fleet, fleet.gpus - 1, _joined(all_L), _joined(judged_L), lost=lost)


def _outcome(fleet: Fleet, gpus: int, latency_s_L: Frames, judged_s_L: Frames, *, lost: int) -> Outcome:
    refused = int(np.isnan(latency_s_L).sum())
    answered_s_L = judged_s_L[~np.isnan(judged_s_L)]
    # Latencies are sums of floats: one that is the goal but for the last digits is within it.
    in_time = int((answered_s_L <= fleet.sla_s * (1 + 1e-9)).sum())
    within = in_time / judged_s_L.size if judged_s_L.size else 0.0
    percentiles = np.percentile(answered_s_L, PERCENTILES) * 1e3 if answered_s_L.size else ()
    return Outcome(
        gpus=gpus,
        frames=latency_s_L.size + lost,
        answered=latency_s_L.size - refused,
        refused=refused,
        lost=lost,
        latency_ms=dict(zip(PERCENTILES, map(float, percentiles), strict=True)) if answered_s_L.size else None,
        within=within,
        holds=within >= fleet.percentile / 100,
    )


def _frames(fleet: Fleet, streams: int, duration_s: float, rng: np.random.Generator) -> Frames:
    if not streams or duration_s <= 0:
        return np.empty(0)
    return cameras(streams, fleet.fps, fleet.jitter_s, duration_s, rng)


def _latencies(fleet: Fleet, arrivals_s: Frames, rng: np.random.Generator) -> Frames:
    served_s: Frames = simulate(fleet.batcher, fleet.server.drawn(rng), arrivals_s).latency_s
    return served_s + fleet.server.overhead_s


def _random(fleet: Fleet, round_: int, gpu: int) -> np.random.Generator:
    return np.random.default_rng([fleet.seed, round_, gpu])


def _rounds(fleet: Fleet) -> int:
    return math.ceil(FEWEST_STREAMS / fleet.streams)


def _duration_s(fleet: Fleet, streams: int) -> float:
    """Of each round: as many frames as wanted, within limits, and whole periods so that no camera counts for more."""
    wanted_s = fleet.frames / (streams * _rounds(fleet) * fleet.fps)
    periods = max(FEWEST_PERIODS, round(min(LONGEST_S, max(SHORTEST_S, wanted_s)) * fleet.fps))
    return periods / fleet.fps


def _sampled(servers: Sequence[_Server], fleet: Fleet) -> list[_Server]:
    frames_of_one = fleet.streams / fleet.gpus * fleet.fps * SHORTEST_S
    most = min(MOST_SERVERS, max(FEWEST_SERVERS, round(fleet.frames / frames_of_one)))
    if len(servers) <= most:
        return list(servers)
    return [servers[place] for place in np.linspace(0, len(servers) - 1, most).round().astype(int)]


def _joined(parts: Any) -> Frames:
    parts = list(parts)
    return np.concatenate(parts) if parts else np.empty(0)
