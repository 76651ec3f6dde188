"""What is asked of ``capacity``: the cameras, the goal, and for each kind of GPU where its figures are from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.capacity.bounds import Graph
from benchmarks.load.points import LoadReport, read_load_report
from builder.errors import SpecError
from builder.gpus import find_gpu

if TYPE_CHECKING:
    from builder.gpus import GpuTarget

CPU = "cpu"
"""A server without a GPU, known by its load report or by hand alone."""
CONTRACT_BYTES = 640 * 640 * 3 + 300 * 6 * 4
"""A frame of the contract on its way in, and its answer: letterboxed UINT8 and FP32 rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of GPU, and what is known of it."""

    name: str
    gpu: GpuTarget | None
    """None: a CPU."""
    report: LoadReport | None = None
    origin: str = ""
    """The report's file."""
    images_per_s: float | None = None
    """By hand."""
    price_per_hour: float | None = None


MOST_STREAMS = 1_000_000
"""Of one plan: its fleet is one place, whose GPUs take over each other's cameras; larger ones are several places."""


def check_streams(streams: int) -> None:
    """Pass where one fleet can be meant; raises SpecError else."""
    if streams > MOST_STREAMS:
        raise SpecError(
            f"--streams {streams}: expected {MOST_STREAMS:,} at most: a plan is of one fleet, in which every GPU can "
            "take over cameras of a lost one; plan each site by itself, and add them up"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CapacityRequest:
    """Everything that a plan is made of."""

    streams: int
    fps: float
    sla_ms: float
    percentile: int
    redundancy: float
    peak: float
    delay_ms: float
    """That a request may wait for others to share its batch."""
    max_batch: int | None
    jitter_ms: float
    reconnect_s: float
    bytes_per_frame: float
    """Over the bus, in and out."""
    kinds: tuple[Kind, ...]
    graph: Graph | None
    frames: int
    """That are simulated of each scenario, about."""
    seed: int = 0
    confirm_s: float = 30.0
    """How long a real server is sent its share."""

    @property
    def images_per_s(self) -> float:
        """Of the whole fleet in the mean of a day: streams x frames a second of each."""
        return self.streams * self.fps


def kinds_of(
    names: Iterable[str],
    *,
    reports: Sequence[str],
    throughputs: Sequence[str],
    prices: Sequence[str],
    model: str | None,
) -> tuple[Kind, ...]:
    """The kinds asked for, each with what the other flags say of it.

    ``reports`` are ``FILE`` or ``GPU=FILE``; ``throughputs`` and ``prices`` are ``GPU=NUMBER``, several of them
    separated by commas, and a throughput may be one number for all. ``model`` is whose reports are expected.

    Raises:
        SpecError: a GPU is unknown or named twice, a flag names one that is not asked for, or a report is none, or
            of another model or GPU.
    """
    gpus = _gpus(names)
    by_report = _reports(reports, gpus, model)
    by_hand = _numbers("--throughput", throughputs, gpus, for_all=True)
    price = _numbers("--price", prices, gpus, for_all=len(gpus) == 1)
    for name in by_report.keys() & by_hand.keys():
        raise SpecError(f"{name}: expected --report or --throughput, got both: leave out the one that is not to count")
    return tuple(
        Kind(
            name=name,
            gpu=gpu,
            report=by_report[name][1] if name in by_report else None,
            origin=by_report[name][0] if name in by_report else "",
            images_per_s=by_hand.get(name),
            price_per_hour=price.get(name),
        )
        for name, gpu in gpus.items()
    )


def check_sources(kinds: Iterable[Kind], graph: Graph | None) -> None:
    """Pass where every kind has something to size it by; raises SpecError else."""
    for kind in kinds:
        if kind.report is None and kind.images_per_s is None and (graph is None or kind.gpu is None):
            estimate = "" if kind.gpu is None else ", or a graph to estimate by (--model or --weights)"
            raise SpecError(
                f"{kind.name}: expected its load report (--report {kind.name}=FILE), its throughput (--throughput "
                f"{kind.name}=IMAGES_PER_S){estimate}, got nothing"
            )


def _gpus(names: Iterable[str]) -> dict[str, GpuTarget | None]:
    gpus: dict[str, GpuTarget | None] = {}
    for part in _parts(names, "--gpu"):
        gpu = None if part.lower() == CPU else find_gpu(part)
        name = CPU if gpu is None else gpu.name
        if name in gpus:
            raise SpecError(f"--gpu: expected each GPU once, got {name} twice")
        gpus[name] = gpu
    return gpus


def _reports(
    given: Sequence[str], gpus: Mapping[str, GpuTarget | None], model: str | None
) -> dict[str, tuple[str, LoadReport]]:
    found: dict[str, tuple[str, LoadReport]] = {}
    for text in given:
        named, equals, file = text.partition("=")
        # A file's own name may hold the sign.
        if not equals or Path(text).exists():
            named, file = "", text
        report = read_load_report(Path(file))
        name = _gpu_of(report, named, file, gpus)
        if not report.points:
            raise SpecError(f"--report {file}: expected measured points, got none; run benchmarks load again")
        expected = model or next((each.model for _, each in found.values()), report.model)
        if report.model != expected:
            raise SpecError(f"--report {file}: expected a report of the model {expected}, got one of {report.model}")
        if name in found:
            raise SpecError(f"--report: expected one report of each GPU, got {found[name][0]} and {file} of {name}")
        found[name] = (file, report)
    return found


def _gpu_of(report: LoadReport, named: str, file: str, gpus: Mapping[str, GpuTarget | None]) -> str:
    """The kind that a report is of: what it says, or where it says nothing, what the user says."""
    known = None if report.gpu is None else find_gpu(report.gpu).name
    wanted = _asked_for("--report", named, gpus) if named else known or CPU
    if known is not None and wanted != known:
        raise SpecError(f"--report {named}={file}: expected a report of {wanted}, got one of {known}")
    if wanted not in gpus and known is None:
        raise SpecError(
            f"--report {file}: names no GPU, as of a server that runs on a CPU; where it was measured on one: --report "
            f"{next(iter(gpus))}={file}; for a fleet of such servers: --gpu {CPU}"
        )
    return _asked_for("--report", wanted, gpus)


def _numbers(
    flag: str, given: Sequence[str], gpus: Mapping[str, GpuTarget | None], *, for_all: bool
) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in _parts(given, flag):
        name, equals, number = part.rpartition("=")
        if not equals and not for_all:
            raise SpecError(f"{flag}: expected GPU=NUMBER, such as {next(iter(gpus))}=0.35, got {part}")
        value = _number(flag, part, number)
        for each in [_asked_for(flag, name.strip(), gpus)] if equals else gpus:
            if each in found:
                raise SpecError(f"{flag}: expected one number for each GPU, got a second for {each}: {part}")
            found[each] = value
    return found


def _number(flag: str, part: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SpecError(f"{flag}: expected a number above 0, got {part}")
    return value


def _asked_for(flag: str, name: str, gpus: Mapping[str, GpuTarget | None]) -> str:
    known = CPU if name.lower() == CPU else find_gpu(name).name
    if known not in gpus:
        raise SpecError(f"{flag}: expected a GPU of --gpu ({', '.join(gpus)}), got {known}")
    return known


def _parts(given: Iterable[str], flag: str) -> list[str]:
    parts = [part.strip() for text in given for part in text.split(",")]
    if not all(parts):
        raise SpecError(f"{flag}: expected values separated by commas, got an empty one")
    return parts
