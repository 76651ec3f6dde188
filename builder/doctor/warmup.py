"""Whether a model's warmup can run, and whether it leaves nothing cold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from builder.doctor.findings import Finding, fails, warning
from builder.doctor.model import Config, Model, VersionFolder

# Where a first request compiles, tunes or allocates; a Python step of an ensemble mostly does not.
COLD_BACKENDS = ("onnxruntime", "tensorrt")


def check_warmup(model: Model, config: Config) -> Iterator[Finding]:
    """What fails when the warmup runs, and what it does not reach."""
    # Triton warms up no ensemble: its steps are warmed up where they are.
    if config.is_ensemble or config.is_empty or config.error is not None:
        return
    for sample in config.message.model_warmup:
        problems = list(_problems(model, config, sample))
        for what, where in problems:
            fix = "mend the sample, or take it out: one that fails fails the model"
            yield fails("warmup", where or config.where, f"warmup {sample.name!r}: {what}", fix)
    for version in model.loaded(config)[:1]:
        if model.backend(config) in COLD_BACKENDS or isinstance(version.build.get("graph"), dict):
            yield from _check_coverage(config, version)


def _problems(model: Model, config: Config, sample: Any) -> Iterator[tuple[str, str | None]]:
    """What is wrong with one sample, each with the file that lacks where it is not the configuration itself."""
    largest = config.message.max_batch_size
    if largest and sample.batch_size > largest:
        yield f"batch_size {sample.batch_size} is above max_batch_size {largest}", None
    inputs = {each.name: each for each in config.message.input}
    for name in sorted(inputs.keys() - sample.inputs.keys()):
        if not inputs[name].optional:
            yield f"no input {name!r}", None
    for name in sorted(sample.inputs):
        tensor = sample.inputs[name]
        kind = tensor.WhichOneof("input_data_type")
        if kind is None:
            yield f"input {name!r} has none of zero_data, random_data and input_data_file", None
        if kind == "input_data_file" and not (model.folder / "warmup" / tensor.input_data_file).is_file():
            yield (
                f"{config.path} reads input {name!r} from it, missing",
                f"{model.name}/warmup/{tensor.input_data_file}",
            )
        if name in inputs:
            yield from ((what, None) for what in _mismatch(name, tensor, inputs[name]))
        elif inputs:
            yield f"the configuration has no input {name!r}", None


def _mismatch(name: str, tensor: Any, declared: Any) -> Iterator[str]:
    from tritonclient.grpc import model_config_pb2 as pb

    if tensor.data_type != declared.data_type:
        expected, got = (pb.DataType.Name(each.data_type) for each in (declared, tensor))
        yield f"expected {expected} for input {name!r}, got {got}"
    dims, expected_dims = list(tensor.dims), list(declared.dims)
    if any(size < 1 for size in dims):
        yield f"expected a size for every dimension of input {name!r}, got {dims}"
    elif len(dims) != len(expected_dims) or any(
        size not in (-1, got) for size, got in zip(expected_dims, dims, strict=True)
    ):
        yield f"expected dims {expected_dims} for input {name!r}, got {dims}"


def _check_coverage(config: Config, version: VersionFolder) -> Iterator[Finding]:
    """A finding where a batch or a size that requests will have is not warmed up."""
    largest = config.message.max_batch_size
    warmed = {(max(1, sample.batch_size), _dims(sample)) for sample in config.message.model_warmup}
    batches = {batch for batch, _ in warmed}
    cold = [f"batch {batch}" for batch in sorted({1, max(1, largest)}) if batch not in batches]
    files = set(config.message.cc_model_filenames.values())
    for record in version.records:
        for profile in record.profiles if record.file in files else ():
            size = profile.imgsz
            for batch in sorted({1, min(profile.batch_max, max(1, largest))}) if size else ():
                if size and not any(each == batch and _has_size(dims, size) for each, dims in warmed):
                    cold.append(f"batch {batch} of {size[0]}x{size[1]} ({record.file})")
    if cold:
        has = f"warms up batch {', '.join(map(str, sorted(batches)))}" if batches else "warms up nothing"
        what = f"{has}, leaves cold: {', '.join(dict.fromkeys(cold))}; the first such requests wait for it"
        yield warning("warmup-coverage", config.where, what, "add a model_warmup sample of that batch and size")


def _dims(sample: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sample.inputs[name].dims) for name in sorted(sample.inputs))


def _has_size(dims: tuple[tuple[int, ...], ...], imgsz: tuple[int, int]) -> bool:
    """Whether an input is an image of that height and width, NHWC or NCHW without the batch."""
    return any(imgsz in (each[:2], each[1:]) for each in dims)
