"""The figures of one run of ``python -m benchmarks overhead``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Spread
from benchmarks.machine import other_load_text
from benchmarks.tables import key_values, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One arrangement at one concurrency, over all turns."""

    arrangement: str
    concurrency: int
    throughput_images_per_s: Spread
    latency_p50_ms: float
    """Of a call, over the calls of all turns."""
    latency_p99_ms: float
    calls: int
    ratio: Spread
    """Throughput / throughput in process at the same concurrency in the same turn."""
    server: dict[str, float] | None
    """Triton's statistics over all turns; None in process."""

    def cells(self) -> tuple[str, ...]:
        """For the first table."""
        return (
            self.arrangement,
            str(self.concurrency),
            f"{self.throughput_images_per_s.median:.1f}",
            f"{self.latency_p50_ms:.1f}",
            f"{self.latency_p99_ms:.1f}",
            f"{self.ratio.median:.3f} ({self.ratio.lowest:.3f}-{self.ratio.highest:.3f})" if self.server else "1",
            str(self.calls),
        )

    def server_cells(self) -> tuple[str, ...]:
        """For the second table."""
        assert self.server, "there is no server in process"
        times = ("queue_ms", "compute_input_ms", "compute_infer_ms", "compute_output_ms")
        return (
            self.arrangement,
            str(self.concurrency),
            f"{self.server['mean_batch']:.2f}",
            *(f"{self.server[name]:.2f}" for name in times),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A ratio that is required, and whether its median over the turns reached it."""

    arrangement: str
    concurrency: int
    required: float
    reached: float
    met: bool

    def __str__(self) -> str:
        return (
            f"target: {self.arrangement}, {self.concurrency} callers, at least {self.required:.2f} of in process: "
            f"{self.reached:.3f}, {'met' if self.met else 'NOT MET'}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OverheadReport:
    """All figures of one run."""

    model: str
    version: int
    threads: int
    """OpenVINO's, in process as served."""
    instances: int
    max_queue_delay_us: int
    pictures: tuple[str, ...]
    repeats: int
    duration_s: float
    in_process: dict[int, str]
    """How the graph was arranged in process, by concurrency."""
    largest_difference: float
    """Between a number of an answer of tritonserver and the same number in process."""
    other_cpu_share: float
    """See ``machine.OtherLoad``."""
    rows: tuple[Row, ...]
    targets: tuple[Target, ...]
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether every target is met."""
        return all(target.met for target in self.targets)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"benchmark": "overhead", **dataclasses.asdict(self)}

    def to_text(self) -> str:
        """What is printed."""
        lines = [
            f"{self.model} version {self.version}: {self.threads} OpenVINO thread(s), {self.instances} instance(s), "
            f"queue delay {self.max_queue_delay_us} us",
            f"{self.repeats} turns, {self.duration_s:g} s for each row in each; pictures: {', '.join(self.pictures)}",
            *(f"in process, {callers} caller(s): {how}" for callers, how in self.in_process.items()),
            "served: one client process; each caller is a thread with a channel of its own",
            f"largest difference between an answer of tritonserver and one in process: {self.largest_difference:g}",
            other_load_text(self.other_cpu_share),
            "",
            table(
                ("", "callers", "images/s", "p50 ms", "p99 ms", "ratio (lowest-highest)", "calls"),
                [row.cells() for row in self.rows],
            ),
            "",
            table(
                ("inside tritonserver", "callers", "mean batch", "queue ms", "input ms", "infer ms", "output ms"),
                [row.server_cells() for row in self.rows if row.server],
            ),
            "",
            *map(str, self.targets),
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)
