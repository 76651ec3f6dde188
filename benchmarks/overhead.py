"""What serving costs: the graph in process against the same graph through tritonserver, in turns, in one run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.closed_loop import Call, measure
from benchmarks.figures import Spread, Window, percentile_ms, ratios
from benchmarks.in_process import Arrangement, answers, arrangements
from benchmarks.machine import OtherLoad, environment
from benchmarks.overhead_report import OverheadReport, Row, Target
from benchmarks.pictures import letterboxed, picture_paths
from benchmarks.served import (
    ServerCounters,
    grpc_callers,
    server_counters,
    server_version,
    shared_memory_callers,
    triton_server,
)
from benchmarks.served_model import ServedModel, find_served_model
from builder.server import TritonServer

IN_PROCESS, GRPC, SHARED_MEMORY = "in process", "gRPC", "shared memory"
CONCURRENCIES = (1, 4)
TARGETS = {(GRPC, 4): 0.85, (SHARED_MEMORY, 4): 0.92}
"""The least throughput, as a ratio to the graph in process with as many callers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverheadOptions:
    """What was asked for."""

    model: str
    repository: Path
    images: tuple[Path, ...]
    repeats: int
    """Turns."""
    duration_s: float
    """Of each arrangement in each turn."""
    settle_s: float
    """Before each of them, not counted."""


def measure_overhead(options: OverheadOptions, argv: Sequence[str], progress: Callable[[str], None]) -> OverheadReport:
    """Measure every arrangement at every concurrency, once per turn; ``progress`` gets a line as each part ends.

    Raises:
        BuilderError: no such model or picture, tritonserver cannot be started, or nothing was answered in time.
        ClientError: tritonserver refused a request.
    """
    model = find_served_model(options.repository, options.model)
    paths = picture_paths(options.images)
    pictures_PHWC = letterboxed(paths, model.contract.size_hw)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(triton_server(options.repository, options.model))
        progress(f"tritonserver is ready after {server.ready_after_s:.1f} s")
        served = {
            name: stack.enter_context(callers(server, model.contract, pictures_PHWC, max(CONCURRENCIES)))
            for name, callers in ((GRPC, grpc_callers), (SHARED_MEMORY, shared_memory_callers))
        }
        in_process = {n: arrangements(model, pictures_PHWC, n) for n in CONCURRENCIES}
        run = _Run(options, server, in_process, served)
        others = OtherLoad(server.pid)
        for turn in range(options.repeats):
            run.turn()
            progress(f"turn {turn + 1} of {options.repeats}: {run.last_turn_text()}")
        other_cpu_share = others.share()
        return OverheadReport(
            model=options.model,
            version=model.version,
            threads=model.threads,
            instances=model.instances,
            max_queue_delay_us=model.max_queue_delay_us,
            pictures=tuple(path.name for path in paths),
            repeats=options.repeats,
            duration_s=options.duration_s,
            in_process={n: run.quickest(n).description for n in CONCURRENCIES},
            largest_difference=_largest_difference(model, pictures_PHWC, served),
            other_cpu_share=other_cpu_share,
            rows=run.rows(),
            targets=run.targets(),
            environment=environment(argv, tritonserver=server_version(server)),
        )


@dataclass
class _Run:
    """The windows of all turns, by arrangement and concurrency; in process, those of each way to arrange it."""

    options: OverheadOptions
    server: TritonServer
    in_process: Mapping[int, Sequence[Arrangement]]
    served: Mapping[str, Sequence[Call]]
    windows: dict[tuple[str, int], list[Window]] = field(default_factory=dict)
    windows_in_process: dict[tuple[str, int], list[Window]] = field(default_factory=dict)
    counters: dict[tuple[str, int], ServerCounters] = field(default_factory=dict)

    def turn(self) -> None:
        """Measure everything once."""
        settle_s, duration_s = self.options.settle_s, self.options.duration_s
        for concurrency in CONCURRENCIES:
            for way in self.in_process[concurrency]:
                windows = self.windows_in_process.setdefault((way.description, concurrency), [])
                windows.append(way.measure(settle_s, duration_s))
            for name, callers in self.served.items():
                before = server_counters(self.server, self.options.model)
                window = measure(callers[:concurrency], settle_s=settle_s, duration_s=duration_s)
                counted = server_counters(self.server, self.options.model) - before
                key = (name, concurrency)
                self._add(key, window)
                self.counters[key] = self.counters[key] + counted if key in self.counters else counted

    def quickest(self, concurrency: int) -> Arrangement:
        """The way in process that got the most done, by the median of its turns."""
        return max(
            self.in_process[concurrency],
            key=lambda way: median(
                window.throughput_images_per_s for window in self.windows_in_process[way.description, concurrency]
            ),
        )

    def last_turn_text(self) -> str:
        """Images per second of the last turn."""
        return ", ".join(
            f"{name} x{concurrency} {windows[-1].throughput_images_per_s:.1f}/s"
            for (name, concurrency), windows in self._all().items()
        )

    def rows(self) -> tuple[Row, ...]:
        """The figures over all turns."""
        rows = []
        for (name, concurrency), windows in self._all().items():
            latencies_s = [latency for window in windows for latency in window.latencies_s]
            counters = self.counters.get((name, concurrency))
            rows.append(
                Row(
                    arrangement=name,
                    concurrency=concurrency,
                    throughput_images_per_s=Spread.of(window.throughput_images_per_s for window in windows),
                    latency_p50_ms=percentile_ms(latencies_s, 50),
                    latency_p99_ms=percentile_ms(latencies_s, 99),
                    calls=len(latencies_s),
                    ratio=self._ratio(name, concurrency),
                    server=counters.to_json() if counters else None,
                )
            )
        return tuple(rows)

    def targets(self) -> tuple[Target, ...]:
        """What is required, against what was reached."""
        return tuple(
            Target(
                arrangement=name,
                concurrency=concurrency,
                required=required,
                reached=(reached := self._ratio(name, concurrency).median),
                met=reached >= required,
            )
            for (name, concurrency), required in TARGETS.items()
        )

    def _add(self, key: tuple[str, int], window: Window) -> None:
        self.windows.setdefault(key, []).append(window)

    def _all(self) -> dict[tuple[str, int], list[Window]]:
        """Each concurrency's quickest way in process, then the served ones."""
        return {
            (name, concurrency): self._windows(name, concurrency)
            for concurrency in CONCURRENCIES
            for name in (IN_PROCESS, *self.served)
        }

    def _windows(self, name: str, concurrency: int) -> list[Window]:
        if name == IN_PROCESS:
            return self.windows_in_process[self.quickest(concurrency).description, concurrency]
        return self.windows[name, concurrency]

    def _ratio(self, name: str, concurrency: int) -> Spread:
        measured, reference = (self._windows(each, concurrency) for each in (name, IN_PROCESS))
        return ratios(
            [window.throughput_images_per_s for window in measured],
            [window.throughput_images_per_s for window in reference],
        )


def _largest_difference(
    model: ServedModel, pictures_PHWC: NDArray[np.uint8], served: Mapping[str, Sequence[Call]]
) -> float:
    """Between the answers in process and those of each way to the server, over all pictures."""
    expected_PN6 = answers(model, pictures_PHWC)
    return max(
        float(np.abs(np.concatenate([callers[0](p) for p in range(len(pictures_PHWC))]) - expected_PN6).max())
        for callers in served.values()
    )
