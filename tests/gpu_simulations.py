"""GPUs that serve a detector, simulated stage by stage, for what has to be tuned where there is no GPU.

Richer than the model that ``benchmarks.tune`` fits, and written apart from it: a request is uploaded over a shared
link, waits for Triton's batcher to wake, is copied to the GPU by an engine that all instances share, computed beside
other instances, which share the GPU the less well the fuller their batches fill it, copied back and answered. Times
vary, kernels run in waves of images, and now and then everything stops for some milliseconds.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.load.points import ClosedLoop, Latencies, LoadPoint, ServerTimes
from benchmarks.tune.space import LADDER, Space, Trial, powers_of_two
from builder.serving import ServingSettings

GOLDEN = Path(__file__).parent / "golden" / "gpu_surfaces.json"
TRUE_REQUESTS = 4000
DELAYS_US = (0, 500, 1000, 2000, 5000)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU with one model; times in milliseconds."""

    name: str
    fixed_ms: float
    """Of every execution."""
    image_ms: float
    """Of every image of a wave."""
    wave: int
    """Images that are computed side by side: what is left over takes as long as half a wave at least."""
    copy_ms: float
    """Per image to the GPU; one at a time."""
    link_ms: float
    """Per image from its client to the server; one at a time."""
    way_ms: float
    """The way back, the server's and the client's work, at random about this mean."""
    sharing: float
    """How much longer a full batch takes beside another one."""
    jitter: float
    stalls_per_s: float = 0.3
    stall_ms: float = 3.0
    wake_ms: float = 0.1

    def compute_ms(self, batch: int) -> float:
        whole, rest = divmod(batch, self.wave)
        return self.fixed_ms + self.image_ms * (whole * self.wave + (max(rest, self.wave / 2) if rest else 0))

    def contention(self, batch: int) -> float:
        """A small batch leaves units of the GPU to others."""
        return self.sharing * min(1.0, 0.35 + 0.65 * batch / (2 * self.wave))


_FIELDS = ("fixed_ms", "image_ms", "wave", "copy_ms", "link_ms", "way_ms", "sharing", "jitter")
GPUS = tuple(
    Gpu(name=name, **dict(zip(_FIELDS, values, strict=True)))
    for name, *values in (
        ("t4-n", 1.3, 1.5, 2, 0.15, 0.25, 0.6, 0.9, 0.03),
        ("t4-s", 1.5, 2.9, 1, 0.15, 0.25, 0.6, 1.0, 0.04),
        ("t4-m", 2.0, 6.5, 1, 0.2, 0.3, 0.8, 1.05, 0.05),
        ("a2-n", 1.5, 3.2, 1, 0.1, 0.2, 0.7, 1.0, 0.06),
        ("l4-n", 1.0, 0.8, 4, 0.08, 0.2, 0.5, 0.75, 0.03),
        ("l4-x", 2.5, 7.0, 1, 0.08, 0.2, 0.8, 1.0, 0.04),
        ("a10-s", 1.1, 1.2, 4, 0.08, 0.2, 0.5, 0.8, 0.03),
        ("a10-m", 1.6, 2.6, 2, 0.08, 0.2, 0.6, 0.95, 0.08),
        ("a30-s", 1.0, 0.7, 4, 0.06, 0.15, 0.4, 0.7, 0.02),
        ("a100-n", 0.9, 0.22, 8, 0.06, 0.15, 0.4, 0.5, 0.03),
        ("a100-m", 1.3, 0.75, 4, 0.06, 0.15, 0.4, 0.8, 0.03),
        ("a100-x", 2.0, 1.9, 4, 0.06, 0.15, 0.5, 0.95, 0.05),
    )
)


@dataclass
class SimulatedGpu:
    """A surface; two measurements of one trial differ as they do on a machine."""

    gpu: Gpu
    seed: int = 0
    requests: int = 1200
    drift: float = 0.01
    """Standard deviation of the whole measurement's speed."""
    measured: int = field(default=0, init=False)

    def measure(self, trial: Trial) -> LoadPoint:
        self.measured += 1
        rng = np.random.default_rng((self.seed, self.measured))
        requests = max(self.requests, 12 * trial.places, 6 * trial.clients)
        run = _Run(self.gpu, trial, requests, rng)
        run.run()
        ends, latencies = np.array(run.ends_ms), np.array(run.latencies_ms)
        first = requests // 5
        speed = math.exp(rng.normal(0, self.drift)) if self.drift else 1.0
        per_s = (len(ends) - 1 - first) / (ends[-1] - ends[first]) * 1e3 * speed
        settled = latencies[first:] / speed
        sizes, counts = np.unique(run.batches, return_counts=True)
        p50, p90, p95, p99 = np.percentile(settled, (50, 90, 95, 99)).tolist()
        return LoadPoint(
            load=ClosedLoop(concurrency=trial.clients),
            throughput_images_per_s=float(per_s),
            latency_ms=Latencies(mean=float(settled.mean()), p50=p50, p90=p90, p95=p95, p99=p99),
            server_ms=ServerTimes(queue=0, compute_input=0, compute_infer=0, compute_output=0),
            batches=dict(zip(sizes.tolist(), counts.tolist(), strict=True)),
            failed=run.refused,
        )


class _Run:
    """Events in a heap: (time, order, what, of which)."""

    def __init__(self, gpu: Gpu, trial: Trial, requests: int, rng: np.random.Generator) -> None:
        self.gpu, self.settings, self.wanted = gpu, trial.settings, requests
        self.ends_ms: list[float] = []
        self.latencies_ms: list[float] = []
        self.batches: list[int] = []
        self.refused = 0
        self._rng = rng
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, object]] = []
        self._queue: list[tuple[float, float]] = []  # came to the server, sent by its client
        self._idle = trial.settings.instances
        self._link_free = self._copier_free = 0.0
        self._computing: dict[int, list[float]] = {}  # job: left of its work, images
        self._jobs: dict[int, list[tuple[float, float]]] = {}
        self._checked, self._version = 0.0, 0
        self._draws = iter(())
        for _ in range(trial.clients):
            self._send(self._draw(1.0) * gpu.way_ms)

    def run(self) -> None:
        stall = self._rng.exponential(1e3 / self.gpu.stalls_per_s) if self.gpu.stalls_per_s else math.inf
        while len(self.ends_ms) < self.wanted:
            now, _, what, of = heapq.heappop(self._events)
            if now > stall:
                # Nothing happens for a while: whatever was to happen does so later.
                self._events = [
                    (time + self.gpu.stall_ms, *rest) for time, *rest in [(now, _, what, of), *self._events]
                ]
                heapq.heapify(self._events)
                self._checked += self.gpu.stall_ms
                stall = now + self._rng.exponential(1e3 / self.gpu.stalls_per_s)
                continue
            getattr(self, what)(now, of)

    def _draw(self, mean: float) -> float:
        """An Erlang time of shape 4: never 0, seldom long."""
        try:
            return mean * next(self._draws)
        except StopIteration:
            self._draws = iter(self._rng.gamma(4.0, 0.25, 1000).tolist())
            return mean * next(self._draws)

    def _at(self, time: float, what: str, of: object = None) -> None:
        heapq.heappush(self._events, (time, next(self._order), what, of))

    def _send(self, now: float) -> None:
        self._link_free = max(self._link_free, now) + self.gpu.link_ms
        self._at(self._link_free, "_arrive", now)

    def _arrive(self, now: float, sent: object) -> None:
        bound = self.settings.max_queue_size
        if bound and len(self._queue) >= bound:
            self.refused += 1
            self._send(now + self._draw(self.gpu.way_ms))
            return
        self._queue.append((now, sent))
        self._at(now + self._draw(self.gpu.wake_ms), "_wake")

    def _wake(self, now: float, _: object) -> None:
        settings = self.settings
        delay = settings.max_queue_delay_us / 1e3
        while self._queue and self._idle:
            oldest = self._queue[0][0]
            if len(self._queue) < settings.max_batch and now < oldest + delay - 1e-9:
                self._at(oldest + delay, "_wake")
                return
            batch, self._queue = self._queue[: settings.max_batch], self._queue[settings.max_batch :]
            self._idle -= 1
            self.batches.append(len(batch))
            job = next(self._order)
            self._jobs[job] = batch
            self._copier_free = max(self._copier_free, now) + self.gpu.copy_ms * len(batch)
            self._at(self._copier_free, "_compute", job)

    def _compute(self, now: float, job: object) -> None:
        self._advance(now)
        images = len(self._jobs[job])
        work = self.gpu.compute_ms(images) * math.exp(self._rng.normal(0, self.gpu.jitter))
        self._computing[job] = [work, images]
        self._plan(now)

    def _advance(self, now: float) -> None:
        """Work off what was done since the last change."""
        passed, self._checked = now - self._checked, now
        for state in self._computing.values():
            state[0] -= passed / self._stretch(state)

    def _stretch(self, state: list[float]) -> float:
        others = len(self._computing) - 1
        return 1 + others * self.gpu.contention(int(state[1])) if others else 1.0

    def _plan(self, now: float) -> None:
        """The next computation to end, unless something changes before."""
        self._version += 1
        if self._computing:
            left, job = min((state[0] * self._stretch(state), job) for job, state in self._computing.items())
            self._at(now + max(left, 0.0), "_computed", (self._version, job))

    def _computed(self, now: float, of: object) -> None:
        version, job = of
        if version != self._version:
            return
        self._advance(now)
        del self._computing[job]
        self._plan(now)
        self._at(now + 0.1 * self.gpu.copy_ms * len(self._jobs[job]) + 0.05, "_answer", job)

    def _answer(self, now: float, job: object) -> None:
        self._idle += 1
        self._at(now + self._draw(self.gpu.wake_ms), "_wake")
        for _, sent in self._jobs.pop(job):
            received = now + self._draw(self.gpu.way_ms)
            self.ends_ms.append(now)
            self.latencies_ms.append(received - sent)
            # A client sends its next one when it has the answer, not before: times of the way are part of the loop.
            self._at(received, "_resend", None)

    def _resend(self, now: float, _: object) -> None:
        self._send(now)


def limits_ms(gpu: Gpu) -> tuple[float | None, ...]:
    """None, one that only small batches meet, and one that large ones meet."""
    return None, float(round(4 * gpu.compute_ms(2) + 4)), float(round(3 * gpu.compute_ms(16) + 4))


def space() -> Space:
    """What is searched on every one of them."""
    base = ServingSettings(max_batch=32, queue_timeout_ms=0, max_queue_size=0)
    return Space(base=base, batches=powers_of_two(32), instances=(1, 2, 3, 4), delays_us=DELAYS_US)


def key(settings: ServingSettings) -> str:
    """A configuration in ``golden/gpu_surfaces.json``."""
    return f"{settings.max_batch}/{settings.instances}/{settings.max_queue_delay_us}"


def exhaustive(gpu: Gpu) -> dict[str, dict[str, float]]:
    """By limit, the throughput that each configuration truly has: every number of clients, long and without drift."""
    surface = SimulatedGpu(gpu, requests=TRUE_REQUESTS, drift=0.0)
    truth: dict[str, dict[str, float]] = {str(limit): {} for limit in limits_ms(gpu)}
    for settings in space().configurations():
        for clients in LADDER:
            trial = Trial(settings=settings, clients=clients)
            point = surface.measure(trial)
            for limit in limits_ms(gpu):
                if limit is None or point.latency_ms.p99 <= limit:
                    known = truth[str(limit)].get(key(settings), 0.0)
                    truth[str(limit)][key(settings)] = round(max(known, point.throughput_images_per_s), 1)
            if clients >= trial.places + 2 * settings.max_batch:
                break
    return truth


def main() -> None:
    """Write down what an exhaustive search finds on each: python -m tests.gpu_simulations NAME..., minutes for all."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for gpu in GPUS:
        if gpu.name in sys.argv[1:]:
            golden[gpu.name] = exhaustive(gpu)
            GOLDEN.write_text(json.dumps(golden, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
