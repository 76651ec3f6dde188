"""Steps of one worker and of several, in turns on the same machine, and what follows from them for more."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Spread
from benchmarks.machine import OtherLoad, environment
from benchmarks.scaling.links import Link, measured_link
from benchmarks.scaling.prediction import Workload, predict
from benchmarks.scaling.processes import Exchange, Workers
from benchmarks.scaling.report import Check, Kind, Measured, ScalingReport
from builder.errors import SpecError
from trainer.data import read_training_data
from trainer.distribution import Devices, check_devices, parse_devices

_WARM_UP_STEPS = 2
_ALL_REDUCES = 5
_SMALL_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingOptions:
    """One run of the benchmark."""

    weights: Path | None
    model: str | None
    data: Path
    imgsz: int
    batch: int
    """Images of a step of one worker."""
    precision: str
    devices: str
    threads: int | None
    """Of each worker on a CPU, however many there are; None: the cores shared among the most."""
    steps: int
    """Of each arrangement in each turn."""
    repeats: int
    links: tuple[Link, ...]
    predicted: tuple[int, ...]
    """Numbers of workers."""


@dataclass
class _Turns:
    """Seconds by turn."""

    steps: dict[tuple[int, int, Exchange], list[float]] = field(default_factory=dict)
    """By workers, images of each, and what they exchange."""
    backward: list[float] = field(default_factory=list)
    """Of one worker with the whole batch."""
    small: dict[int, list[float]] = field(default_factory=dict)
    """All-reduces of a number, by workers."""
    large: dict[int, list[float]] = field(default_factory=dict)
    """All-reduces of all gradients at once, by workers."""


def measure_scaling(options: ScalingOptions, argv: Sequence[str], progress: Callable[[str], None]) -> ScalingReport:
    """Measure in turns, and predict.

    Raises:
        SpecError: the request is wrong.
        DataError: the data are wrong.
        WorkerError: a worker cannot train.
    """
    devices = _devices(options.devices)
    worlds = _worlds(devices.processes)
    _check(options, worlds)
    read_training_data(options.data)
    threads = options.threads or max(len(os.sched_getaffinity(0)) // devices.processes, 1)
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder, contextlib.ExitStack() as stack:
        progress("each worker loads the model and its batches")
        spec = _spec(options, threads)
        groups = [stack.enter_context(Workers(spec, world, devices, Path(folder))) for world in (1, *worlds)]
        others = OtherLoad(*(pid for group in groups for pid in group.sessions))
        turns = _measure(options, groups, progress)
        other_cpu_share = others.share()
        facts = groups[0].facts
    one = {images: Spread.of(values) for (world, images, _), values in turns.steps.items() if world == 1}
    workload = Workload(
        step_s={images: spread.median for images, spread in one.items()},
        backward_share=statistics.median(turns.backward),
        gradient_bytes=facts["gradient_bytes"],
        small_exchanges=facts["small_exchanges"],
    )
    here = {world: _link_here(turns, world, facts["gradient_bytes"]) for world in worlds}
    measured = tuple(_measured(turns, kind, world, options.batch) for world in worlds for kind in Kind)
    return ScalingReport(
        start=Path(options.model or options.weights or "").name,
        imgsz=options.imgsz,
        batch=options.batch,
        precision=options.precision,
        device=_device(devices),
        threads=threads if devices.kind == "cpu" else None,
        steps=options.steps,
        repeats=options.repeats,
        workload=workload,
        one=one,
        measured=measured,
        checks=tuple(
            Check(measured=each, predicted=predict(workload, here[each.workers], each.workers, each.images))
            for each in measured
        ),
        predicted=tuple(
            predict(workload, link, workers, options.batch) for link in options.links for workers in options.predicted
        ),
        predicted_strong=tuple(
            predict(workload, link, workers, options.batch // workers)
            for link in options.links
            for workers in options.predicted
            if options.batch % workers == 0
        ),
        other_cpu_share=other_cpu_share,
        environment=environment(argv),
    )


def _devices(text: str) -> Devices:
    # One CPU worker has nothing to be compared with; one GPU may be all there is, and its step can be predicted from.
    devices = parse_devices("cpu,cpu" if text.strip() == "cpu" else text)
    check_devices(devices)
    return devices


def _device(devices: Devices) -> str:
    if devices.kind == "cpu":
        return "CPU workers by gloo"
    import torch

    names = dict.fromkeys(torch.cuda.get_device_name(index) for index in devices.indexes)
    return f"{' and '.join(names)} by NCCL"


def _worlds(most: int) -> tuple[int, ...]:
    """2, 4, 8, … and all."""
    return (*(2**power for power in range(1, most.bit_length()) if 2**power < most), *([most] if most > 1 else []))


def _check(options: ScalingOptions, worlds: Sequence[int]) -> None:
    """Pass where several workers can share the batch of one; raises SpecError."""
    for world in worlds:
        if options.batch % world:
            raise SpecError(
                f"--batch {options.batch}: expected a multiple of {world}, so that {world} workers can share the batch "
                "of one."
            )


def _spec(options: ScalingOptions, threads: int) -> dict[str, Any]:
    return {
        "weights": str(options.weights) if options.weights else None,
        "model": options.model,
        "data": str(options.data),
        "imgsz": options.imgsz,
        "images": options.batch,
        "precision": options.precision,
        "threads": threads,
    }


def _measure(options: ScalingOptions, groups: Sequence[Workers], progress: Callable[[str], None]) -> _Turns:
    """Each arrangement in each turn; every turn begins with another one."""
    shared = [group.world for group in groups[1:]] or [2 - options.batch % 2]
    alone = dict.fromkeys(options.batch // world for world in (1, *shared))
    arrangements = [(groups[0], images, Exchange.NOTHING) for images in alone]
    for group in groups[1:]:
        for images in (options.batch, options.batch // group.world):
            arrangements += [(group, images, exchange) for exchange in Exchange]
    progress("warm-up")
    for group, images, exchange in arrangements:
        group.ask("steps", exchange=exchange, images=images, count=_WARM_UP_STEPS)
    turns, size = _Turns(), groups[0].facts["gradient_bytes"]
    for turn in range(options.repeats):
        progress(f"turn {turn + 1} of {options.repeats}")
        start = turn % len(arrangements)
        # What the machine does meanwhile weighs on each of them alike.
        for group, images, exchange in arrangements[start:] + arrangements[:start]:
            answers = group.ask("steps", exchange=exchange, images=images, count=options.steps)
            step_s = statistics.fmean(statistics.median(answer["steps_s"]) for answer in answers)
            turns.steps.setdefault((group.world, images, exchange), []).append(step_s)
            if group.world == 1 and images == options.batch:
                turns.backward.append(statistics.median(answers[0]["backward_s"]) / step_s)
        for group in groups[1:]:
            for times, bytes_ in ((turns.small, _SMALL_BYTES), (turns.large, size)):
                answers = group.ask("all_reduce", size_bytes=bytes_, count=_ALL_REDUCES)
                times.setdefault(group.world, []).append(statistics.median(answers[0]))
    return turns


def _measured(turns: _Turns, kind: Kind, world: int, batch: int) -> Measured:
    images = batch if kind is Kind.WEAK else batch // world
    one, alone = turns.steps[1, batch, Exchange.NOTHING], turns.steps[1, images, Exchange.NOTHING]
    apart, statistics_, step = (turns.steps[world, images, each] for each in Exchange)
    large = turns.large[world]
    return Measured(
        kind=kind,
        workers=world,
        images=images,
        alone_s=Spread.of(alone),
        apart_s=Spread.of(apart),
        statistics_s=Spread.of(statistics_),
        step_s=Spread.of(step),
        efficiency=Spread.of(images * o / (batch * s) for o, s in zip(one, step, strict=True)),
        communication=Spread.of(1 - a / s for a, s in zip(apart, step, strict=True)),
        all_reduce_s=Spread.of(large),
        hidden=_told(Spread.of(1 - (s - t) / r for s, t, r in zip(step, statistics_, large, strict=True))),
    )


def _told(hidden: Spread) -> Spread | None:
    """A share that its turns agree on."""
    return hidden if hidden.highest - hidden.lowest <= 1 else None


def _link_here(turns: _Turns, world: int, size: int) -> Link:
    small, large = (statistics.median(each[world]) for each in (turns.small, turns.large))
    return measured_link(f"here, {world} workers", world, small_s=small, large_s=large, large_bytes=size)
