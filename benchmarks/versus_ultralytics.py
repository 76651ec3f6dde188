"""Image to boxes, one request at a time: our build and client against Ultralytics' Triton guide and client."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Spread, percentile_ms, ratios
from benchmarks.guide_layout import write_guide_model
from benchmarks.machine import OtherLoad, environment
from benchmarks.pictures import picture_paths
from benchmarks.served import server_version, triton_server
from benchmarks.versus_report import Row, Target, VersusReport
from builder.errors import SpecError
from clients import Detector

if TYPE_CHECKING:
    from builder.pipeline import Build
    from builder.server import TritonServer

OURS, THEIRS = "ours", "guide"
CONFIDENCE, IOU = 0.25, 0.7
"""The defaults of both."""
REQUIRED = 0.5
"""The most time, as a ratio to the faster protocol of Ultralytics' client."""
UNCOUNTED_CALLS = 3

Detect = Callable[[Any], int]
"""From a picture to the number of boxes found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersusOptions:
    """What was asked for."""

    weights: Path
    images: tuple[Path, ...]
    repeats: int
    """Turns."""
    calls: int
    """Of each row in each turn, for each picture."""


def measure_versus(options: VersusOptions, argv: Sequence[str], progress: Callable[[str], None]) -> VersusReport:
    """Build both models of the same weights, serve them side by side, and time both clients in turns.

    Raises:
        BuilderError: the weights cannot be built, a picture cannot be read, or tritonserver cannot be started.
    """
    # Read when ultralytics is imported: it would install packages that it misses.
    os.environ["YOLO_AUTOINSTALL"] = "false"
    paths = picture_paths(options.images)
    sources = {"decoded array": _decoded(paths), "file": [str(path) for path in paths]}
    with tempfile.TemporaryDirectory(prefix="yolo-triton-") as folder, contextlib.ExitStack() as stack:
        repository = Path(folder, "repository")
        built = _build(options.weights, repository, progress)
        write_guide_model(options.weights, built.network.imgsz, repository, THEIRS)
        server = stack.enter_context(triton_server(repository, OURS, THEIRS))
        progress(f"tritonserver is ready after {server.ready_after_s:.1f} s with both models")
        clients = stack.enter_context(_clients(server, built.network.imgsz))
        boxes = {name: tuple(detect(path) for path in sources["file"]) for name, detect in clients.items()}
        medians: dict[tuple[str, str], list[float]] = {}
        latencies: dict[tuple[str, str], list[float]] = {}
        others = OtherLoad(server.pid)
        for turn in range(options.repeats):
            for source, pictures in sources.items():
                for name, detect in clients.items():
                    timed = _timed(detect, pictures, options.calls)
                    latencies.setdefault((source, name), []).extend(timed)
                    medians.setdefault((source, name), []).append(percentile_ms(timed, 50))
            progress(f"turn {turn + 1} of {options.repeats}")
        other_cpu_share = others.share()
        return VersusReport(
            weights=options.weights.name,
            imgsz=built.network.imgsz,
            pictures=tuple(path.name for path in paths),
            repeats=options.repeats,
            calls=options.calls,
            boxes=boxes,
            other_cpu_share=other_cpu_share,
            rows=tuple(
                Row(
                    source=source,
                    client=name,
                    latency_p50_ms=percentile_ms(values, 50),
                    latency_p99_ms=percentile_ms(values, 99),
                    calls=len(values),
                )
                for (source, name), values in latencies.items()
            ),
            targets=tuple(_target(source, medians) for source in sources),
            environment=environment(argv, tritonserver=server_version(server)),
        )


def _target(source: str, medians: dict[tuple[str, str], list[float]]) -> Target:
    ours, theirs = (
        min(
            ((Spread.of(values).median, name) for (of, name), values in medians.items() if of == source and who in name)
        )[1]
        for who in ("Detector, gRPC", "YOLO()")
    )
    ratio = ratios(medians[source, ours], medians[source, theirs])
    return Target(source=source, ours=ours, theirs=theirs, required=REQUIRED, ratio=ratio, met=ratio.median <= REQUIRED)


def _decoded(paths: Sequence[Path]) -> list[Any]:
    import cv2

    pictures = [cv2.imread(str(path)) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture is None:
            raise SpecError(f"--images {path}: expected a picture that OpenCV reads, found none")
    return pictures


def _build(weights: Path, repository: Path, progress: Callable[[str], None]) -> Build:
    from builder.pipeline import build
    from builder.spec import BuildSpec

    if weights.suffix.lower() != ".pt":
        raise SpecError(f"--weights {weights}: expected a .pt, which both can export")
    return build(
        BuildSpec(weights=weights, name=OURS, repository=repository),
        lambda stage: progress(f"{stage.name}: {'reused' if stage.reused else f'{stage.seconds:.1f} s'}"),
    )


@contextlib.contextmanager
def _clients(server: TritonServer, size_hw: tuple[int, int]) -> Iterator[dict[str, Detect]]:
    """Each client, connected: from a path or a BGR array to the number of boxes."""
    from ultralytics.models import YOLO

    def of_detector(detector: Detector) -> Detect:
        return lambda image: len(detector.detect(image, CONFIDENCE))

    def of_yolo(url: str) -> Detect:
        model: Any = YOLO(f"{url}/{THEIRS}", task="detect")
        options = {"imgsz": list(size_hw), "conf": CONFIDENCE, "iou": IOU, "verbose": False}
        return lambda image: len(model(image, **options)[0].boxes)

    with Detector(server.grpc_url, OURS) as over_grpc, Detector(server.http_url, OURS) as over_http:
        yield {
            "clients.Detector, gRPC": of_detector(over_grpc),
            "clients.Detector, HTTP": of_detector(over_http),
            "ultralytics.YOLO(), HTTP": of_yolo(server.http_url),
            "ultralytics.YOLO(), gRPC": of_yolo(server.grpc_url),
        }


def _timed(detect: Detect, pictures: Sequence[Any], calls: int) -> list[float]:
    """Seconds of each call, the pictures in turns; the first few are not counted."""
    for index in range(UNCOUNTED_CALLS):
        detect(pictures[index % len(pictures)])
    seconds = []
    for _ in range(calls):
        for picture in pictures:
            start = time.perf_counter()
            detect(picture)
            seconds.append(time.perf_counter() - start)
    return seconds
