"""``python -m builder evaluate``: the accuracy of weights, of a published version, or of what a server serves.

Weights are measured as Ultralytics' validator measures them (``yolo val rect=False``), by their raw head; the other two
by the boxes that a client gets. The served head gives each box one class where the validator counts several, which
costs some mAP: ``--weights W --head detections`` is the figure that a published version compares with.

Boxes are clipped to the image, as clients get them, and so does the validator with ``save_json=True``, whose COCO
figures are these; its own mAP counts what lies over the edge as well, which matters where objects are cut by it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.console import DEFAULT_REPOSITORY, show_progress, stage_line
from builder.errors import RepositoryError, ServerError, SpecError

if TYPE_CHECKING:
    from builder.accuracy import AccuracyReport, Detect, Figures
    from builder.cache import Stage

COLUMNS = ("", "objects", "mAP50-95", "mAP50", "precision", "recall", "F1")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    add = command.add_argument
    add("--data", type=Path, required=True, metavar="YAML", help="labelled images: an Ultralytics data.yaml")
    add("--split", choices=("train", "val", "test"), default="val", help="(default: val)")
    source = command.add_mutually_exclusive_group()
    source.add_argument("--weights", type=Path, help="evaluate a .pt or .onnx in FP32")
    source.add_argument("--url", help="evaluate what a server serves: grpc://host:8001 or http://host:8000")
    source.add_argument(
        "--repository", type=Path, help=f"evaluate a version's graph in process (default: {DEFAULT_REPOSITORY})"
    )
    add("--model", metavar="NAME", help="the model, in the repository or on the server")
    add("--version", type=int, metavar="N", help="its version (default: the one that config.pbtxt names)")
    add(
        "--head", choices=("raw", "detections"), help="of --weights: raw agrees with yolo val rect=False (default: raw)"
    )
    add("--imgsz", metavar="PX|H,W", help="of --weights (default: what they were trained at)")
    add("--names", metavar="A,B,…", help="class names of --weights, where the file holds none")
    add("--trust-weights", action="store_true", help="unpickle the checkpoint as it is; it can run any code")
    add("--cache", type=Path, help="where finished stages are kept (default: the user's cache folder)")
    add("--runtime", choices=("openvino", "onnxruntime"), default="openvino", help="in process (default: openvino)")
    add("--confidence", type=float, default=0.25, help="threshold of precision, recall and F1 (default: 0.25)")
    add("--json", action="store_true", help="print the figures as JSON on stdout, all else on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print.

    Raises:
        BuilderError: the request, the data, the model or the server is at fault.
    """
    from builder.accuracy import evaluate
    from builder.dataset import check_names, read_split
    from clients.errors import ClientError

    _check(arguments)
    data = read_split(arguments.data, arguments.split)
    try:
        # Ultralytics logs to stdout, the making of its settings on a machine's first day among it.
        with contextlib.redirect_stdout(sys.stderr), _subject(arguments) as subject:
            check_names(data, subject.names)
            report = evaluate(
                data, subject.detect, arguments.confidence, lambda done, total: show_progress("images", done, total)
            )
    except ClientError as e:
        raise ServerError(str(e)) from e
    out = sys.stderr if arguments.json else sys.stdout
    print("\n".join(table(report, subject.description)), file=out)
    if arguments.json:
        print(json.dumps({"evaluated": subject.description, **report.to_json()}))
    return 0


def table(report: AccuracyReport, title: str) -> list[str]:
    """The lines that are printed."""
    data = report.data
    lines = [title, f"{data.source}, {data.split}: {report.images} images, {report.overall.objects} objects"]
    if data.duplicates:
        lines.append(f"{data.duplicates} label lines that repeat another were left out")
    if report.unreadable:
        names = "; ".join(each.problem for each in report.unreadable[:5])
        more = f"; and {len(report.unreadable) - 5} more" if len(report.unreadable) > 5 else ""
        part = f"{len(report.unreadable)} of {len(report.detections)} images"
        lines.append(f"warning: {part} cannot be read and count for nothing: {names}{more}")
    rows = [COLUMNS, *map(_cells, (report.overall, *report.sizes, *report.classes))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join((row[0].ljust(widths[0]), *numbers)).rstrip())
    lines.append(f"precision, recall and F1 at confidence {report.confidence:g} and IoU 0.5; sizes by COCO's limits")
    return lines


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """What is evaluated."""

    description: str
    names: tuple[str, ...]
    detect: Detect


def _check(arguments: argparse.Namespace) -> None:
    """Refuse flags that would have no effect."""
    of_weights = ("head", "imgsz", "names", "trust_weights", "cache")
    of_model = ("model", "version")
    if arguments.weights:
        idle = [name for name in of_model if getattr(arguments, name)]
        where = "a repository or a server, not --weights"
    else:
        idle = [name for name in of_weights if getattr(arguments, name)]
        where = "--weights, which is not given"
    if idle:
        raise SpecError(f"--{idle[0].replace('_', '-')} belongs to {where}.")
    if not arguments.weights and not arguments.model:
        raise SpecError("expected what to evaluate: --weights FILE, --model NAME, or --url URL --model NAME.")


@contextlib.contextmanager
def _subject(arguments: argparse.Namespace) -> Iterator[_Subject]:
    if arguments.url:
        from builder.detectors import served_detector
        from clients.detector import Detector

        version = str(arguments.version or "")
        with Detector(arguments.url, arguments.model, version=version) as detector:
            height, width = detector.size
            description = f"{arguments.model} at {arguments.url}, {height}x{width}, as served"
            yield _Subject(description=description, names=detector.names, detect=served_detector(detector))
    elif arguments.weights:
        yield _of_weights(arguments)
    else:
        yield _of_repository(arguments)


def _of_weights(arguments: argparse.Namespace) -> _Subject:
    from builder.spec import BuildSpec
    from builder.stages import Stages
    from builder.weights import find_weights

    # A graph exported for a fixed batch has one image at a time as well.
    flags = {"weights": arguments.weights, "precision": "fp32", "max_batch": 1, "head": arguments.head or "raw"}
    given = {name: getattr(arguments, name) for name in ("imgsz", "names", "cache", "trust_weights")}
    spec = BuildSpec.from_sources(flags | {name: value for name, value in given.items() if value}, None)

    def report(stage: Stage) -> None:
        print(stage_line(stage), file=sys.stderr, flush=True)

    stages = Stages(spec=spec, weights=find_weights(spec.weights), report=report)
    network = stages.network()
    return _in_process(arguments, arguments.weights, stages.served(network).path, network.names, "fp32")


def _of_repository(arguments: argparse.Namespace) -> _Subject:
    from builder.manifest import check_version, read_manifest, versions_of

    model = (arguments.repository or DEFAULT_REPOSITORY) / arguments.model
    version = arguments.version or _configured_version(model)
    folder = model / str(version)
    present = versions_of(model)
    if version not in present:
        has = ", ".join(map(str, present)) or "none"
        raise RepositoryError(f"expected version {version} in {model}, found {has}; build it again, or name another.")
    if messages := check_version(folder).messages:
        raise RepositoryError(f"{folder} is not what was published: {messages[0]}.")
    build = read_manifest(folder)["build"]
    names, precision = tuple(build["network"]["names"]), build["spec"]["precision"]
    return _in_process(arguments, folder, folder / build["graph"]["file"], names, precision)


def _configured_version(model: Path) -> int:
    """The version that config.pbtxt names."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    path = model / "config.pbtxt"
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except FileNotFoundError:
        raise RepositoryError(
            f"expected a model at {model}, found no {path}; name it with --repository, --model."
        ) from None
    except (OSError, UnicodeDecodeError, text_format.ParseError) as e:
        reason = " ".join(str(e).split())
        raise RepositoryError(f"{path}: expected a Triton model configuration, got: {reason}; build it again.") from e
    versions = list(config.version_policy.specific.versions)
    if not versions:
        raise RepositoryError(f"{path} names no version; say which one with --version.")
    return int(max(versions))


def _in_process(
    arguments: argparse.Namespace, subject: Path, graph: Path, names: tuple[str, ...], precision: str
) -> _Subject:
    from builder.detectors import Runtime, graph_detector

    detect = graph_detector(graph, Runtime(arguments.runtime))
    height, width = detect.size_hw
    head = (
        "raw head, read as Ultralytics' validator reads it" if detect.raw else "detections head, as a client reads it"
    )
    description = f"{subject}, {precision}, {height}x{width}, {head}, in {arguments.runtime}"
    return _Subject(description=description, names=names, detect=detect)


def _cells(figures: Figures) -> tuple[str, ...]:
    counts = figures.counts
    at_threshold = (counts.precision, counts.recall, counts.f1) if counts else (None, None, None)
    values = (figures.map50_95, figures.map50, *at_threshold)
    return (figures.name, str(figures.objects), *("-" if value is None else f"{value:.3f}" for value in values))
