"""What is wrong with a model's configuration by itself, and with the files that it names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from builder.doctor.findings import Finding, fails, warning
from builder.doctor.model import DEFAULT_FILES, PLATFORMS, Config, Model

BUILD_AGAIN = "build the model again: python -m builder build"
# What the images of NVIDIA hold; the last two have images of their own.
BACKENDS = (
    *("dali", "fil", "identity", "onnxruntime", "openvino", "python", "pytorch", "repeat", "square", "tensorflow"),
    *("tensorrt", "tensorrtllm", "vllm"),
)

# These take a folder for a model as well.
FOLDER_BACKENDS = ("onnxruntime", "pytorch", "tensorflow", "tensorrtllm", "vllm")


def check_model(model: Model) -> Iterator[Finding]:
    """What is wrong with a model as a whole."""
    if model.hidden:
        what = "a hidden folder, which tritonserver takes for a model"
        yield fails("hidden-folder", model.name, what, f"move {model.folder} out of the repository")
    elif not model.configs and not model.versions:
        what = "no model, and tritonserver takes every folder of the repository for one, and does not start with it"
        fix = f"move {model.folder} elsewhere; if it was a model, put back what it held"
        if model.folder.is_symlink():
            fix = f"remove it: rm {model.folder}"
        yield fails("no-model", model.name, what, fix)
    elif not any(config.path == "config.pbtxt" for config in model.configs) and not _is_link(model):
        yield fails(
            "config-missing",
            f"{model.name}/config.pbtxt",
            "missing; tritonserver would have to make up a configuration, and clients find no contract in it",
            BUILD_AGAIN,
        )
    for config in model.configs:
        if config.path == "config.pbtxt":
            yield from _check_gone(model, config)


def _is_link(model: Model) -> bool:
    """Whether config.pbtxt is a link; if it leads nowhere, that is told as such."""
    return (model.folder / "config.pbtxt").is_symlink()


def _check_gone(model: Model, default: Config) -> Iterator[Finding]:
    """Configurations that the served version was published with, and that are no longer beside config.pbtxt."""
    there = {Path(config.path).name for config in model.configs}
    for version in model.loaded(default):
        for copy in sorted((version.path / "configs").glob("*.pbtxt")):
            path = model.folder / "configs" / copy.name
            if copy.name != "config.pbtxt" and copy.name not in there and not path.is_symlink():
                what = (
                    f"missing, version {version.number} was published with it; --model-config-name={copy.stem} would "
                    "serve config.pbtxt, and not say so"
                )
                fix = f"copy it back: cp {copy} {path}"
                yield warning("config-gone", f"{model.name}/configs/{copy.name}", what, fix)


def check_config(model: Model, config: Config) -> Iterator[Finding]:
    """What is wrong with a configuration and the files that it names; plans and graphs are looked into elsewhere."""
    if config.error is not None:
        what = f"expected a Triton model configuration, got: {config.error}"
        yield fails("config-syntax", config.where, what, "mend the line that is named, or " + BUILD_AGAIN)
        return
    if config.is_empty:
        yield _empty(model, config)
        return
    named = config.message.name
    if named and named != model.name:
        what = f"expected name {model.name!r}, as the folder says, got {named!r}"
        yield fails("config-name", config.where, what, f"write name: {model.name!r}, or rename the folder to {named}")
    yield from _check_versions(model, config)
    yield from _check_batching(config)
    if config.is_ensemble:
        yield from _check_steps(model, config)
        return
    yield from _check_backend(model, config)
    yield from _check_labels(model, config)
    yield from _check_as_published(model, config)


def _empty(model: Model, config: Config) -> Finding:
    """A file that says nothing: Triton tells the backend by the files, and no backend but Python's goes on from there.

    With --disable-auto-complete-config, as models are served, inputs and outputs stay unknown.
    """
    by_hand = model.backend(config) == "python" and not any(
        isinstance(version.build.get("graph"), dict) for version in model.loaded(config)
    )
    what = "empty: it names no backend, no inputs and no outputs"
    if by_hand:
        return warning("config-empty", config.where, what, "write inputs and outputs as clients shall see them")
    copies = [version.path / "configs" / Path(config.path).name for version in model.loaded(config)]
    fix = next((f"copy {copy} back" for copy in copies if copy.is_file() and copy.stat().st_size), BUILD_AGAIN)
    return fails("config-empty", config.where, what, fix)


def _check_versions(model: Model, config: Config) -> Iterator[Finding]:
    there = ", ".join(str(each.number) for each in model.versions) or "none"
    policy = config.message.version_policy
    named = list(policy.specific.versions) if policy.WhichOneof("policy_choice") == "specific" else []
    missing = [number for number in named if number not in [each.number for each in model.versions]]
    if not model.loaded(config):
        wanted = f"version {', '.join(map(str, named))}" if named else "at least one version"
        what = f"expected {wanted}, as version_policy says, found {there}"
        yield fails("version-missing", config.where, what, "name a version that is there, or " + BUILD_AGAIN)
    elif missing:
        what = f"version_policy names {', '.join(map(str, missing))}, found {there}; the others are served"
        yield warning("version-missing", config.where, what, "take it out of version_policy")


def _check_batching(config: Config) -> Iterator[Finding]:
    batching, largest = config.message.dynamic_batching, config.message.max_batch_size
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        what = f"expected a default_priority_level from 1 to {levels}, the number of priority_levels, got {default}"
        fix = f"set default_priority_level to a level from 1 to {levels}"
        yield fails("priority-default", config.where, what, fix)
    for level in sorted(batching.priority_queue_policy):
        if levels and not 1 <= level <= levels:
            what = f"priority_queue_policy has level {level}, priority_levels are 1 to {levels}"
            yield fails("priority-policy", config.where, what, "take that level out, or raise priority_levels")
    too_large = [size for size in batching.preferred_batch_size if size > largest]
    if too_large:
        what = f"preferred_batch_size {', '.join(map(str, too_large))} is above max_batch_size {largest}"
        yield fails(
            "preferred-batch", config.where, what, "leave preferred_batch_size out: Triton fills max_batch_size"
        )


def _check_steps(model: Model, config: Config) -> Iterator[Finding]:
    for kind, declared in (("input", config.message.input), ("output", config.message.output)):
        if not declared:
            what = f"the ensemble has no {kind}, and tritonserver makes up none"
            yield fails("ensemble-ends", config.where, what, f"write the {kind} blocks, or {BUILD_AGAIN}")
    for step in config.message.ensemble_scheduling.step:
        if step.model_name not in model.siblings:
            near = difflib.get_close_matches(step.model_name, model.siblings - {model.name}, n=1)
            hint = f", nearest: {near[0]}" if near else ""
            what = f"the ensemble has a step by model {step.model_name!r}, which is not in the repository{hint}"
            yield fails("ensemble-step", config.where, what, f"put {step.model_name} there, or name another model")
        elif step.model_version > 0 and not (model.repository / step.model_name / str(step.model_version)).is_dir():
            what = f"the ensemble has a step by version {step.model_version} of {step.model_name}, which is not there"
            yield fails("ensemble-step", config.where, what, "name a version that is there, or -1 for the newest")


def _check_backend(model: Model, config: Config) -> Iterator[Finding]:
    backend = model.backend(config)
    if not backend:
        what = f"names no backend, and no {', '.join(DEFAULT_FILES.values())} is there to tell it by"
        yield fails("backend-unknown", config.where, what, "name the backend, such as: backend: 'tensorrt'")
        return
    if not config.named_backend:
        what = f"names no backend; tritonserver takes {backend}, by the files that are there"
        yield warning("backend-unnamed", config.where, what, f"write backend: {backend!r}")
    own = [
        folder / f"libtriton_{backend}.so" for folder in (model.folder, *(each.path for each in model.loaded(config)))
    ]
    if backend not in BACKENDS and not config.message.runtime and not any(path.is_file() for path in own):
        near = difflib.get_close_matches(backend, [*BACKENDS, *PLATFORMS], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        what = f"backend {backend!r} is in no image of NVIDIA's; {hint}expected one of {', '.join(BACKENDS)}"
        yield fails("backend-unknown", config.where, what, "name a backend that the server has")
        return
    yield from _check_files(model, config, backend)


def _check_files(model: Model, config: Config, backend: str) -> Iterator[Finding]:
    default = config.message.default_model_filename or DEFAULT_FILES.get(backend)
    by_capability = dict(config.message.cc_model_filenames)
    for version in model.loaded(config):
        needed = {file: f", for compute capability {key}" for key, file in sorted(by_capability.items())}
        if default and not by_capability:
            needed[default] = ""
        # model.py runs the graph beside it.
        if backend == "python" and isinstance(version.build.get("graph"), dict):
            needed.setdefault(str(version.build["graph"].get("file", "model.onnx")), ", which model.py runs")
        for file, why in needed.items():
            path = version.path / file
            if not (path.is_file() or (path.is_dir() and backend in FOLDER_BACKENDS)):
                hangs = "; tritonserver waits for it for ever" if backend == "python" and file.endswith(".py") else ""
                what = f"missing; {config.path} names it{why}{hangs}"
                yield fails("file-missing", f"{version.where}/{file}", what, _how_to_get(file))


def _how_to_get(file: str) -> str:
    if file.endswith(".plan"):
        return "build the plan on its GPU: python -m builder plan, or name another file"
    return f"put {file} there, or {BUILD_AGAIN}"


def _check_labels(model: Model, config: Config) -> Iterator[Finding]:
    for output in config.message.output:
        if output.label_filename and not (model.folder / output.label_filename).is_file():
            what = f"missing; {config.path} names it for the labels of output {output.name}"
            fix = "put it there, a label a line, or take label_filename out"
            yield fails("labels-missing", f"{model.name}/{output.label_filename}", what, fix)


def _check_as_published(model: Model, config: Config) -> Iterator[Finding]:
    for version in model.loaded(config):
        published = version.path / "configs" / Path(config.path).name
        if published.is_file() and published.read_bytes() != (model.folder / config.path).read_bytes():
            what = f"differs from {version.number}/configs/{published.name}, as it was published"
            fix = f"copy {published.name} back from {version.where}/configs, or publish what it shall be"
            yield warning("config-edited", config.where, what, fix)
