"""Image to boxes, one request at a time: our build and client against Ultralytics' Triton guide and client."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import percentile_ms, ratios
from benchmarks.guide_layout import write_guide_models
from benchmarks.machine import OtherLoad, environment
from benchmarks.pictures import picture_paths
from benchmarks.served import server_version, triton_server
from benchmarks.versus_report import Client, Ratio, Row, VersusReport
from builder.artifacts import CpuPrecision, Head, Precision
from builder.errors import SpecError
from clients import Detector

if TYPE_CHECKING:
    from builder.pipeline import Build
    from builder.server import TritonServer

OURS, SQUARE = "ours", "square"
GUIDE_RUNTIMES = {"guide": "onnxruntime", "guide_openvino": "openvino"}
LAYOUTS = {
    "guide": "the guide's layout on onnxruntime",
    "guide_openvino": "the guide's layout on OpenVINO",
    SQUARE: "our --head raw on OpenVINO, fixed size",
}
CONFIDENCE, IOU = 0.25, 0.7
"""The defaults of both."""
REQUIRED = 0.5
"""The most time, as a ratio to the faster protocol of Ultralytics' client on the guide's layout."""
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
    """Build the models of the same weights, serve them side by side, and time the clients in turns.

    Raises:
        BuilderError: the weights cannot be built, a picture cannot be read, or tritonserver cannot be started.
    """
    # Read when ultralytics is imported: it would install packages that it misses.
    os.environ["YOLO_AUTOINSTALL"] = "false"
    paths = picture_paths(options.images)
    run = _Run({"decoded array": _decoded(paths), "file": [str(path) for path in paths]}, options.calls)
    with tempfile.TemporaryDirectory(prefix="yolo-triton-") as folder, contextlib.ExitStack() as stack:
        repository = Path(folder, "repository")
        built = _build(options.weights, repository, progress)
        write_guide_models(options.weights, built.proven.network.imgsz, repository, GUIDE_RUNTIMES)
        server = stack.enter_context(triton_server(repository, OURS, *LAYOUTS))
        progress(f"tritonserver is ready after {server.ready_after_s:.1f} s")
        clients = stack.enter_context(_clients(server, built.proven.network.imgsz))
        boxes = {client: tuple(detect(str(path)) for path in paths) for client, detect in clients.items()}
        others = OtherLoad(server.pid)
        for turn in range(options.repeats):
            run.turn(clients)
            progress(f"turn {turn + 1} of {options.repeats}")
        other_cpu_share = others.share()
        return VersusReport(
            weights=options.weights.name,
            imgsz=built.proven.network.imgsz,
            pictures=tuple(path.name for path in paths),
            repeats=options.repeats,
            calls=options.calls,
            other_cpu_share=other_cpu_share,
            rows=run.rows(boxes),
            ratios=run.ratios(),
            environment=environment(argv, tritonserver=server_version(server)),
        )


@dataclass
class _Run:
    """The latencies of all turns, by source and client; each turn's are a list of their own."""

    sources: dict[str, Sequence[Any]]
    calls: int
    latencies_s: dict[tuple[str, Client], list[list[float]]] = field(default_factory=dict)

    def turn(self, clients: dict[Client, Detect]) -> None:
        """Time every client on every source once."""
        for source, pictures in self.sources.items():
            for client, detect in clients.items():
                self.latencies_s.setdefault((source, client), []).append(_timed(detect, pictures, self.calls))

    def rows(self, boxes: dict[Client, tuple[int, ...]]) -> tuple[Row, ...]:
        """The figures over all turns."""
        rows = []
        for (source, client), turns in self.latencies_s.items():
            values = [value for turn in turns for value in turn]
            p50_ms, p99_ms = (percentile_ms(values, percent) for percent in (50, 99))
            rows.append(
                Row(
                    source=source,
                    client=client,
                    latency_p50_ms=p50_ms,
                    latency_p99_ms=p99_ms,
                    calls=len(values),
                    boxes=boxes[client],
                )
            )
        return tuple(rows)

    def ratios(self) -> tuple[Ratio, ...]:
        """Ours over gRPC against the faster protocol of theirs, for each source and layout."""
        found = []
        for source in self.sources:
            medians = {
                client: [percentile_ms(turn, 50) for turn in turns]
                for (of, client), turns in self.latencies_s.items()
                if of == source
            }
            ours = next(client for client in medians if client.layout is None and client.protocol == "gRPC")
            for layout, description in LAYOUTS.items():
                theirs = min((c for c in medians if c.layout == description), key=lambda c: sorted(medians[c]))
                ratio = ratios(medians[ours], medians[theirs])
                required = REQUIRED if layout == "guide" else None
                found.append(Ratio(source=source, ours=ours, theirs=theirs, ratio=ratio, required=required))
        return tuple(found)


def _decoded(paths: Sequence[Path]) -> list[Any]:
    import cv2

    pictures = [cv2.imread(str(path)) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture is None:
            raise SpecError(f"--images {path}: expected a picture that OpenCV reads, found none")
    return pictures


def _build(weights: Path, repository: Path, progress: Callable[[str], None]) -> Build:
    """Our build as it is quickest on a CPU, and the fixed-size build for Ultralytics' client."""
    from builder.pipeline import build
    from builder.spec import BuildSpec

    if weights.suffix.lower() != ".pt":
        raise SpecError(f"--weights {weights}: expected a .pt, which both can export")
    ours, raw = (
        BuildSpec(weights=weights, name=OURS, repository=repository, cpu_precision=CpuPrecision.BF16),
        BuildSpec(weights=weights, name=SQUARE, repository=repository, head=Head.RAW, precision=Precision.FP32),
    )
    built = build(ours, lambda stage: progress(f"build: {stage.name}"))
    build(raw, lambda stage: progress(f"build --head raw: {stage.name}"))
    return built


@contextlib.contextmanager
def _clients(server: TritonServer, size_hw: tuple[int, int]) -> Iterator[dict[Client, Detect]]:
    """Each client, connected."""
    from ultralytics.models import YOLO

    def of_detector(detector: Detector) -> Detect:
        return lambda image: len(detector.detect(image, CONFIDENCE))

    def of_yolo(url: str) -> Detect:
        model: Any = YOLO(url, task="detect")
        options = {"imgsz": list(size_hw), "conf": CONFIDENCE, "iou": IOU, "verbose": False}
        return lambda image: len(model(image, **options)[0].boxes)

    with contextlib.ExitStack() as stack:
        urls = {"gRPC": server.grpc_url, "HTTP": server.http_url}
        clients = {
            Client(layout=None, protocol=protocol): of_detector(stack.enter_context(Detector(url, OURS)))
            for protocol, url in urls.items()
        }
        clients |= {
            Client(layout=description, protocol=protocol): of_yolo(f"{url}/{layout}")
            for layout, description in LAYOUTS.items()
            for protocol, url in urls.items()
        }
        yield clients


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
