"""``python -m builder``: arguments in, lines out; the work is elsewhere and imported only when it is asked for."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import BuilderError
from builder.signals import Interrupted, interrupted_by

if TYPE_CHECKING:
    from builder.cache import Stage
    from builder.pipeline import Build

DEFAULT_REPOSITORY = Path("model_repository")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 a wrong request, 3 a gate not passed, 128 + a signal's."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        print(end="", flush=True)
    except BuilderError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt as e:
        print("interrupted; nothing was published", file=sys.stderr)
        return e.exit_code if isinstance(e, Interrupted) else 128 + signal.SIGINT
    except OSError as e:
        return _io_failed(e)
    return code


def _io_failed(error: OSError) -> int:
    # The reader of a pipe may have enough, as in "| head -1"; what is left in the buffer must not fail again at exit.
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
    return 1


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m builder", description="From YOLO weights to a proven NVIDIA Triton model repository."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_build(commands.add_parser("build", help="weights -> a version of a model repository"))
    _add_evaluate(commands.add_parser("evaluate", help="accuracy of weights, a published version, or a served model"))
    _add_gpus(commands.add_parser("gpus", help="the GPUs that a build can aim at, and this machine's"))
    _add_verify(commands.add_parser("verify", help="compare a repository with its manifests"))
    _add_serve(commands.add_parser("serve", help="start tritonserver on a repository, stop it with Ctrl-C"))
    return top


def _add_build(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_build)
    # Only flags that are given appear in the namespace: the others come from --spec, or from BuildSpec's defaults.
    command.argument_default = argparse.SUPPRESS
    add = command.add_argument
    add("--spec", type=Path, metavar="YAML", help="the same names in a file; flags win")
    add("--weights", type=Path, help=".pt or .onnx (default: yolo11n.pt, which Ultralytics downloads)")
    add("--model", metavar="YAML", help="the network of a bare state_dict, such as yolo11n.yaml")
    add("--name", help="the model's name in the repository (default: the weights' file name)")
    add("--names", metavar="A,B,…", help="class names, where the weights hold none")
    add("--gpu", help="the GPU that will serve, such as t4, l4, a100-40gb:1g.5gb, or auto (default: t4)")
    add("--precision", help="fp32, fp16 or int8 (default: fp16); int8 needs --data")
    add("--cpu-precision", help="where a CPU serves: fp32 or bf16, where the CPU has it (default: fp32)")
    add("--head", help="detections: boxes come out; raw: Ultralytics' own contract (default: detections)")
    add("--imgsz", metavar="PX|H,W", help="input size (default: what the weights were trained at, else 640)")
    add("--iou", help="suppression threshold (default: 0.7)")
    add("--candidates", help="boxes by confidence that suppression looks at (default: 512)")
    add("--max-detections", help="rows of the output (default: 300)")
    add("--max-batch", help="largest batch (default: 8)")
    add("--instances", help="model instances on the GPU (default: 2)")
    add("--max-queue-delay-us", help="how long a request may wait for company (default: 500)")
    add("--max-queue-size", help="requests that may wait, more are refused; 0: no bound (default: 128)")
    add("--queue-timeout-ms", help="longest wait, older requests are refused; 0: no limit (default: 1000)")
    add("--images", type=Path, nargs="+", help="pictures to measure parity on (default: two of Ultralytics')")
    add("--data", type=Path, metavar="YAML", help="labelled images; the gate judges the build on its val split")
    add(
        "--calibration",
        type=Path,
        metavar="DIR|YAML",
        help="what INT8 is calibrated on (default: --data's train split)",
    )
    add("--calibration-images", help="how many of them (default: 512)")
    add("--calibration-method", help="mse, entropy, percentile or max (default: mse)")
    add("--seed", help="of the draw of calibration images (default: 0)")
    add("--max-map-drop", help="mAP50-95 that may be lost against FP32 (default: 0.01)")
    add("--max-confidence-drop", help="confidence that may be lost, in the median (default: 0.05)")
    add(
        "--auto-mixed", action="store_true", help="where the gate refuses INT8, give layers back to FP16 till it passes"
    )
    add("--repository", type=Path, help="where to publish (default: model_repository)")
    add("--cache", type=Path, help="where finished stages are kept (default: the user's cache folder)")
    add("--allow-partial", action="store_true", help="load what fits where keys are missing or do not fit")
    add("--trust-weights", action="store_true", help="unpickle the checkpoint as it is; it can run any code")
    add("--json", action="store_true", help="print what was done as JSON on stdout, progress on stderr")


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    from builder import evaluate

    command.set_defaults(run=evaluate.run)
    evaluate.add_arguments(command)


def _add_gpus(command: argparse.ArgumentParser) -> None:
    from builder import gpus_command

    command.set_defaults(run=gpus_command.run)
    gpus_command.add_arguments(command)


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_verify)
    command.add_argument("--repository", type=Path, default=DEFAULT_REPOSITORY)
    command.add_argument("--model", help="one model (default: every one)")


def _add_serve(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_serve)
    add = command.add_argument
    add("--repository", type=Path, default=DEFAULT_REPOSITORY)
    add("--config-name", metavar="NAME", help="serve configs/NAME.pbtxt: cpu, or a GPU (default: cpu without a GPU)")
    add("--model", action="append", default=[], dest="models", help="load this model alone; may be repeated")
    add("--host", default="127.0.0.1", help="address to listen on (default: loopback alone)")
    add("--http-port", type=int, default=8000)
    add("--grpc-port", type=int, default=8001)
    add("--metrics-port", type=int, default=8002)
    add("--log-file", type=Path, help="where tritonserver's log goes")


def _build(arguments: argparse.Namespace) -> int:
    from builder.pipeline import build
    from builder.spec import BuildSpec

    flags = {k: v for k, v in vars(arguments).items() if k not in ("run", "spec", "json")}
    as_json = getattr(arguments, "json", False)
    out = sys.stderr if as_json else sys.stdout

    def report(stage: Stage) -> None:
        interruption.check()
        how = "unchanged, reused" if stage.reused else f"{stage.seconds:.1f} s"
        print(f"{stage.name:<10} {how}", file=out, flush=True)

    def progress(what: str, done: int, total: int) -> None:
        interruption.check()
        _progress(what, done, total)

    # Ultralytics logs to stdout, the making of its settings on a machine's first day among it.
    with (
        interrupted_by(signal.SIGINT, signal.SIGTERM) as interruption,
        contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout),
    ):
        done = build(BuildSpec.from_sources(flags, getattr(arguments, "spec", None)), report, progress)
    for line in _summary(done):
        print(line, file=out)
    if as_json:
        print(json.dumps(_as_json(done)))
    return 0


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{what} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _summary(done: Build) -> list[str]:
    from builder.artifacts import CpuPrecision, Precision
    from builder.runtimes import RUNTIMES

    spec, published = done.spec, done.published
    height, width = done.proven.network.imgsz
    network = f"{done.proven.network.parameters:,} parameters, {len(done.proven.network.names)} classes"
    lines = [f"{network}, {height}x{width} px, {spec.precision}"]
    if spec.precision is not Precision.INT8:  # its loss is no error of arithmetic, and the gate's to judge
        lines += [_parity_line(runtime, done.parity) for runtime in done.parity["served"]]
    if spec.cpu_precision is CpuPrecision.BF16 and len(done.parity["served"]) == len(RUNTIMES):
        lines.append("warning: parity in bf16 was not measured, this CPU has none; one that has it will serve in it")
    lines += _accuracy_lines(done)
    check = done.compile_check
    compiles = f"TensorRT-RTX {check.version} compiles the graph for SM {check.compute_capability}"
    lines.append(f"warning: {check.warning}" if check.warning else compiles)
    if done.proven.network.key_mismatches:
        lines.append(f"warning: loaded in part: {done.proven.network.key_mismatches}")
    state = "published" if published.changed else "unchanged"
    lines += [
        f"{state}: {published.path}",
        "config.pbtxt serves model.onnx by onnxruntime with the TensorRT accelerator: no TensorRT plan was built, the "
        f"engine is compiled on the {done.gpu.name} when the model loads, before it is ready.",
    ]
    if spec.instances == 1 and (spec.max_queue_size or spec.queue_timeout_ms):
        lines.append(
            "warning: with one instance and a queue policy, Triton may let a request that comes while the GPU is busy "
            "lie for up to 500 ms: use --instances 2, or no policy: --max-queue-size 0 --queue-timeout-ms 0"
        )
    if published.older_configs:
        lines.append(
            f"warning: still on an older version: {', '.join(published.older_configs)}; build for these GPUs too"
        )
    lines.append(f"serve it: python -m builder serve --repository {spec.repository}")
    return lines


def _accuracy_lines(done: Build) -> list[str]:
    quantization, accuracy = done.proven.quantization, done.proven.accuracy
    lines = []
    if quantization:
        calibration = quantization["calibration"]
        back = quantization["given_back"]
        lines.append(
            f"{quantization['int8_share']:.1%} of the convolutions' multiply-adds in INT8, calibrated on "
            f"{calibration['images']} images by {quantization['method']}"
            + (f"; given back to FP16: {', '.join(back)}" if back else "")
        )
        if calibration["unreadable"]:
            lines.append(
                f"warning: {calibration['unreadable']} calibration images could not be read; others were taken"
            )
    if accuracy:
        unreadable = accuracy["candidate"]["unreadable"]
        if unreadable:
            lines.append(
                f"warning: {len(unreadable)} val images cannot be read and judged nothing: {', '.join(unreadable[:5])}"
            )
        before, after = (accuracy[name]["overall"]["map50_95"] for name in ("reference", "candidate"))
        drift = accuracy["comparison"]["confidence_drift"]["median"]
        lines.append(
            f"gate passed on {accuracy['candidate']['images']} images: mAP50-95 {after:.4f}, in FP32 {before:.4f}; "
            f"confidence {drift:+.4f} in the median; see {done.published.path}/accuracy.html"
        )
    return lines


def _parity_line(runtime: str, parity: dict[str, Any]) -> str:
    served, network = parity["served"][runtime], parity["network"].get(runtime)
    anchors = f"; probabilities off by at most {network['probability']['largest']:.2g}" if network else ""
    if not served["reference_detections"]:
        return (
            f"parity in {runtime}: PyTorch finds nothing in the {parity['images']} images, so no detections were "
            f"compared{anchors}. Give pictures of what it detects with --images."
        )
    return (
        f"parity in {runtime}: {served['matched']:.1%} of {served['reference_detections']} detections matched at "
        f"IoU 0.9, boxes off by at most {served['box_px']['largest']:.2g} px{anchors}"
    )


def _as_json(done: Build) -> dict[str, Any]:
    return {
        "model": done.spec.model_name,
        "version": done.published.version,
        "path": str(done.published.path),
        "changed": done.published.changed,
        "stages": [{"name": s.name, "seconds": round(s.seconds, 3), "reused": s.reused} for s in done.stages],
        "parity": done.parity,
        "compile_check": done.compile_check.to_json(),
        "quantization": done.proven.quantization,
        "accuracy": done.proven.accuracy,
        "graph_sha256": done.proven.model.sha256,
    }


def _verify(arguments: argparse.Namespace) -> int:
    from builder.verify import verify

    findings = verify(arguments.repository, arguments.model)
    for finding in findings:
        print(finding)
    return int(any(not finding.ok for finding in findings))


def _serve(arguments: argparse.Namespace) -> int:
    from builder.serve import serve
    from builder.server_options import ServerOptions

    return serve(
        ServerOptions(
            repository=arguments.repository,
            config_name=arguments.config_name,
            host=arguments.host,
            http_port=arguments.http_port,
            grpc_port=arguments.grpc_port,
            metrics_port=arguments.metrics_port,
            models=tuple(arguments.models),
            log_file=arguments.log_file,
        )
    )
