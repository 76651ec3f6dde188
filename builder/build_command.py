"""``python -m builder build``: weights in, a version of a model repository out, and what is worth knowing of it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.console import show_progress, stage_line
from builder.signals import interrupted_by

if TYPE_CHECKING:
    from builder.cache import Stage
    from builder.pipeline import Build
    from builder.serving import GpuServing


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's flags: every field of BuildSpec."""
    # Only flags that are given appear in the namespace: the others come from --spec, or from BuildSpec's defaults.
    command.argument_default = argparse.SUPPRESS
    add = command.add_argument
    add("--spec", type=Path, metavar="YAML", help="the same names in a file, its paths from its folder; flags win")
    add("--weights", type=Path, help=".pt or .onnx (default: yolo11n.pt, which Ultralytics downloads)")
    add("--run-record", type=Path, metavar="FILE", help="run.json of their training (default: the one beside them)")
    add("--model", metavar="YAML", help="the network of a bare state_dict, such as yolo11n.yaml")
    add("--name", help="the model's name in the repository (default: the weights' file name)")
    add("--names", metavar="A,B,…", help="class names, where the weights hold none")
    add(
        "--gpu",
        action="extend",
        type=lambda names: names.split(","),
        metavar="GPU",
        help="a GPU that will serve, such as t4, l4, a100-40gb:1g.5gb, or auto; repeated for a fleet (default: t4)",
    )
    add("--precision", help="fp32, fp16 or int8 (default: fp16); int8 needs --data")
    add("--cpu-precision", help="where a CPU serves: fp32 or bf16, where the CPU has it (default: fp32)")
    add("--head", help="detections: boxes come out; raw: Ultralytics' own contract (default: detections)")
    add("--imgsz", metavar="PX|H,W", help="input size (default: what the weights were trained at, else 640)")
    add("--iou", help="suppression threshold (default: 0.7)")
    add("--candidates", help="boxes by confidence that suppression looks at (default: 512)")
    add("--max-detections", help="rows of the output (default: 300)")
    add("--sla-ms", help="latency to meet; what follows is chosen for it where it is not given")
    add("--max-batch", help="largest batch (default: by --sla-ms and the GPU's memory, else 8)")
    add("--instances", help="model instances on each GPU (default: 2, or 1 where memory is short)")
    add("--max-queue-delay-us", help="how long a request may wait for company (default: 500)")
    add(
        "--max-queue-size",
        help="requests that may wait, more are refused; 0: no bound (default: 128)",
    )
    add("--queue-timeout-ms", help="longest wait, older requests are refused; 0: no limit (default: 1000)")
    add("--priority-levels", help="requests may name a level from 1, the most urgent, to this (default: 0, one queue)")
    add("--triton", help="the release that will serve, such as 26.09 (default: the newest of which all is known)")
    add(
        "--hardware-compatibility",
        help="where a plan may run: none, same_compute_capability or ampere_plus (default: none, its own GPU)",
    )
    add("--optimization-level", help="TensorRT's, 0 to 5 (default: TensorRT's own)")
    add(
        "--encoded",
        action="store_true",
        help="publish NAME_jpeg beside it, which takes JPEG, PNG and WebP; the server's Python needs Pillow and OpenCV",
    )
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


def run(arguments: argparse.Namespace) -> int:
    """Build, publish, and say what came of it.

    Raises:
        BuilderError: a subclass by what went wrong; nothing was published then.
    """
    from builder.pipeline import build
    from builder.spec import BuildSpec

    flags = {k: v for k, v in vars(arguments).items() if k not in ("run", "spec", "json")}
    as_json = getattr(arguments, "json", False)
    out = sys.stderr if as_json else sys.stdout

    def report(stage: Stage) -> None:
        interruption.check()
        print(stage_line(stage), file=out, flush=True)

    def progress(what: str, done: int, total: int) -> None:
        interruption.check()
        show_progress(what, done, total)

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


def _summary(done: Build) -> list[str]:
    from builder.artifacts import CpuPrecision, Precision
    from builder.plans import shared_plans
    from builder.runtimes import RUNTIMES
    from builder.training_run import training_line

    spec, published = done.spec, done.published
    height, width = done.proven.network.imgsz
    network = f"{done.proven.network.parameters:,} parameters, {len(done.proven.network.names)} classes"
    lines = [f"{network}, {height}x{width} px, {spec.precision}"]
    if spec.precision is not Precision.INT8:  # its loss is no error of arithmetic, and the gate's to judge
        lines += [_parity_line(runtime, done.parity) for runtime in done.parity["served"]]
    if spec.cpu_precision is CpuPrecision.BF16 and len(done.parity["served"]) == len(RUNTIMES):
        lines.append("warning: parity in bf16 was not measured, this CPU has none; one that has it will serve in it")
    lines += _accuracy_lines(done)
    if told := training_line(done.origin.training):
        lines.append(told)
    if done.origin.warning:
        lines.append(f"warning: {done.origin.warning}")
    lines += [stage.result["note"] for stage in done.stages if stage.name == "export" and stage.result.get("note")]
    if done.proven.network.key_mismatches:
        lines.append(f"warning: loaded in part: {done.proven.network.key_mismatches}")
    lines += [line for serving in done.deployment.fleet for line in _gpu_lines(done, serving)]
    lines += shared_plans([each.gpu for each in done.deployment.fleet], spec.hardware_compatibility)
    state = "published" if published.changed else "unchanged"
    lines += [f"{state}: {published.path}", *_plan_lines(done)]
    if done.beside:
        *steps, ensemble = (each.path.parent.name for each in done.beside)
        lines.append(f"{ensemble} takes encoded images, by {' and '.join(steps)}, whose Python needs Pillow and OpenCV")
    if published.replaced_edits:
        lines.append(
            f"warning: replaced although changed by hand: {', '.join(published.replaced_edits)}; give what they shall "
            "hold by flags"
        )
    if published.older_configs:
        lines.append(
            f"warning: still on an older version: {', '.join(published.older_configs)}; build for these GPUs too"
        )
    lines.append(f"serve it: python -m builder serve --repository {shlex.quote(str(spec.repository))}")
    return lines


def _gpu_lines(done: Build, serving: GpuServing) -> list[str]:
    """How one GPU will serve, and whether the graph compiles for it."""
    name, settings = serving.gpu.name, serving.settings
    sizing, check = done.sizings[name], done.compile_checks[name]
    took = "" if sizing.service_time_ms is None else f", a batch in about {sizing.service_time_ms:.1f} ms (estimated)"
    memory = f"{sizing.budget.total_bytes / 1e9:.1f} of {sizing.budget.capacity_bytes / 1e9:g} GB (estimated)"
    count = "1 instance" if settings.instances == 1 else f"{settings.instances} instances"
    lines = [f"{name}: {count}, batches up to {settings.max_batch}{took}, {memory}"]
    if check.warning:
        lines.append(f"warning: {check.warning}")
    else:
        takes = ""
        if check.activation_bytes is not None:
            estimate = sizing.budget.activation_bytes
            takes = (
                f", its engine takes {check.activation_bytes / 1e6:.0f} MB of activations and scratch at that batch "
                f"({estimate / 1e6:.0f} MB of activations estimated)"
            )
        lines.append(
            f"{name}: TensorRT-RTX {check.version} compiles the graph for SM {check.compute_capability}{takes}"
        )
    return lines + [f"warning: {warning}" for warning in sizing.warnings]


def _plan_lines(done: Build) -> list[str]:
    """Which GPUs have a plan, and how the others get theirs."""
    from builder.plans import plan_file

    lines = [
        f"{file}: TensorRT {plan.record.version}, for {' and '.join(plan.record.gpus)}"
        for file, plan in sorted(done.plans.items())
    ]
    if done.no_plan_here:
        lines.append(f"warning: no plan was built here: {done.no_plan_here}")
    if not done.waiting:
        return [*lines, "config.pbtxt serves the plans: every GPU has one"]
    names = ", ".join(each.gpu.name for each in done.waiting)
    lines += [
        f"no TensorRT plan yet for {names}: until then config.pbtxt serves model.onnx by onnxruntime with the TensorRT "
        "accelerator, which compiles it on the GPU as the model loads, before it is ready",
    ]
    if done.release.builds_plans is False:
        return [
            *lines,
            f"warning: no plan can be built inside {done.release.image}: this project does not take its Python; name a "
            "newer release with --triton",
        ]
    lines.append("to build the plan, on a machine with that GPU, in a checkout of this project:")
    by_plan: dict[str, list[str]] = {}
    for each in done.waiting:
        by_plan.setdefault(plan_file(each.gpu, done.spec.hardware_compatibility), []).append(each.gpu.name)
    for sharing in by_plan.values():
        if sharing[1:]:
            lines.append(f"  once, on one of {', '.join(sharing)}, which share it (--gpu says on which):")
        lines.append(f"  {_docker_run(done, sharing[0])}")
    return lines


def _docker_run(done: Build, gpu: str) -> str:
    """The command that builds the plan on the target, in the TensorRT of the release that will serve it."""
    repository = shlex.quote(str(done.spec.repository.absolute()))
    # As this user, whose the repository is; plans and timings stay in the user's cache.
    who = '--user "$(id -u):$(id -g)" -e HOME=/tmp -e XDG_CACHE_HOME=/cache -v "$HOME/.cache":/cache'
    return (
        f'docker run --rm --gpus all {who} -v {repository}:/models -v "$PWD":/project:ro {done.release.image} '
        f"sh /project/deploy/build_plan.sh --repository /models --model {done.spec.model_name} --gpu {gpu} "
        f"--triton {done.release.name}"
    )


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
        "gpus": {
            each.gpu.name: {
                "settings": dataclasses.asdict(each.settings),
                "memory": done.sizings[each.gpu.name].budget.to_json(),
                "estimate": done.sizings[each.gpu.name].to_json(),
                "compile_check": done.compile_checks[each.gpu.name].to_json(),
                "plan_command": _docker_run(done, each.gpu.name) if each in done.waiting else None,
            }
            for each in done.deployment.fleet
        },
        "plans": [plan.record.to_json() for plan in done.plans.values()],
        "beside": [each.path.parent.name for each in done.beside],
        "quantization": done.proven.quantization,
        "accuracy": done.proven.accuracy,
        "training": done.origin.training,
        "graph_sha256": done.proven.model.sha256,
    }
