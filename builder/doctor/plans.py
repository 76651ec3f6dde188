"""Whether a plan is one, and of the TensorRT, the compute capability and the batch that will be asked of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from builder.doctor.findings import Finding, Target, fails, warning
from builder.doctor.model import Config, Model, VersionFolder
from builder.gpus import GpuTarget
from builder.plan_header import PlanHeader, PlanKind, read_plan_header
from builder.plans import AMPERE, PlanRecord
from builder.releases import TritonRelease, parts, releases, same_version

BUILD_PLAN = "build it on its GPU, in the image that serves: python -m builder plan"
_NAMED = re.compile(r"sm_?(\d{2,3})(?!\d)")


@dataclass
class PlanChecks:
    """The plans of one model; each file is read once, and ``unchecked`` collects what could not be compared."""

    model: Model
    target: Target
    unchecked: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def check(self, config: Config) -> Iterator[Finding]:
        """What is wrong with the plans that a configuration names, and with how it names them."""
        if config.error is not None or self.model.backend(config) != "tensorrt":
            return
        for version in self.model.loaded(config):
            plans = [each for each in _named_plans(config) if (version.path / each[1]).is_file()]
            for capability, file in plans:
                # Several configurations name one plan.
                if f"{version.where}/{file}" not in self.seen:
                    self.seen.add(f"{version.where}/{file}")
                    yield from self._check_file(version, file)
                yield from _check_use(config, version, capability, file)
                is_plan = read_plan_header(version.path / file).kind is not PlanKind.NO_PLAN
                if is_plan and version.record_of(file) is None:
                    self._skip(
                        f"{version.where}/{file}: no manifest describes this content, its batches are not compared"
                    )
            if plans and version.graph_file is None:
                self._skip(f"{version.where}: no model.onnx is beside the plans, inputs and outputs are not compared")
            yield from _check_one_version(version, [file for _, file in plans])
            yield from self._check_keys(config, version)

    def _check_file(self, version: VersionFolder, file: str) -> Iterator[Finding]:
        header, where = read_plan_header(version.path / file), f"{version.where}/{file}"
        if header.kind is PlanKind.NO_PLAN:
            what = f"expected a TensorRT plan, got a file that is {header.description}"
            other = "write backend: 'onnxruntime', or " if file.endswith(".onnx") else ""
            yield fails("plan-kind", where, what, other + BUILD_PLAN)
            return
        if header.metadata_bytes:
            what = f"{header.metadata_bytes} bytes of metadata stand before the plan, as Ultralytics writes them"
            yield fails("plan-metadata", where, what, f"cut them off: tail -c +{header.metadata_bytes + 1} {file}")
        if header.kind is PlanKind.TENSORRT_RTX:
            what = f"{header.description}, which Triton's TensorRT cannot read"
            yield fails("plan-rtx", where, what, BUILD_PLAN)
            return
        yield from self._check_version(version, file, header)
        recorded = version.files.get(file, {}).get("bytes")
        if header.cut_short:
            whole = f"{header.recorded_bytes} bytes, as it says itself" if header.recorded_bytes else "a whole header"
            yield fails("plan-cut-short", where, f"expected {whole}, found {header.plan_bytes}", BUILD_PLAN)
        elif isinstance(recorded, int) and header.file_bytes < recorded:
            what = f"expected {recorded} bytes, as the manifest says, found {header.file_bytes}"
            yield fails("plan-cut-short", where, what, f"copy it again, or {BUILD_PLAN}")

    def _check_version(self, version: VersionFolder, file: str, header: PlanHeader) -> Iterator[Finding]:
        where, record = f"{version.where}/{file}", version.record_of(file)
        release = self.target.release or releases().get(record.triton or "" if record else "") or self._release
        if header.kind is PlanKind.OLD_TENSORRT:
            newest = release is None or release.tensorrt is None or parts(release.tensorrt) >= (8, 6)
            if newest:
                yield fails("plan-version", where, f"{header.description}, which the release's is not", BUILD_PLAN)
            return
        if header.version is None:
            if not header.cut_short:
                self._skip(f"{where}: its header is laid out in a way that is not known, its version is not compared")
            return
        if record and not same_version(record.version, header.version):
            what = f"the manifest says TensorRT {record.version}, its header says {header.version}"
            yield warning("plan-record", where, what, BUILD_PLAN)
        if release is None:
            self._skip("TensorRT versions of plans are not compared with a release's: name it with --triton")
        elif release.tensorrt is None:
            self._skip(f"which TensorRT Triton {release.name} holds is not confirmed: plans are not compared with it")
        elif not release.runs_plan_of(header.version):
            what = f"built by TensorRT {header.version}, and Triton {release.name} holds {release.tensorrt}"
            yield fails(
                "plan-version", where, what, f"build it in {release.image}: python -m builder plan{_or(header)}"
            )

    @property
    def _release(self) -> TritonRelease | None:
        """Where the model's plans were built, if in one release: a plan of which nothing is known goes beside them."""
        built_in = released_by(self.model)
        return built_in[0] if len(built_in) == 1 else None

    def _check_keys(self, config: Config, version: VersionFolder) -> Iterator[Finding]:
        """Which GPUs find a plan, and which plans find a GPU."""
        keys, gpus = dict(config.message.cc_model_filenames), config.gpus(version, self.target)
        default = config.message.default_model_filename or "model.plan"
        for gpu in gpus:
            if keys and gpu.compute_capability not in keys and not (version.path / default).is_file():
                what = (
                    f"no plan for {gpu.name}: cc_model_filenames has no {gpu.compute_capability}, only "
                    f"{', '.join(sorted(keys))}, and there is no {default}"
                )
                fix = f"build it on its GPU, {gpu.name}: python -m builder plan, or name another GPU with --gpu"
                yield fails("plan-for-gpu", config.where, what, fix)
        known = {gpu.compute_capability for gpu in (*gpus, *version.gpus)}
        for key in sorted(keys) if known else ():
            if key not in known:
                what = f"cc_model_filenames has {key} ({keys[key]}), which none of {_listed(gpus)} has"
                yield warning("plan-unused", config.where, what, "take the key out, or name its GPU with --gpu")
        yield from _check_shared(config, version, gpus)

    def _skip(self, reason: str) -> None:
        if reason not in self.unchecked:
            self.unchecked.append(reason)


def _named_plans(config: Config) -> list[tuple[str | None, str]]:
    """Every plan that a configuration names, with its key; None: the one that GPUs without a key load."""
    keyed: list[tuple[str | None, str]] = sorted(config.message.cc_model_filenames.items())
    default = config.message.default_model_filename or "model.plan"
    return [*keyed, (None, default)] if default not in dict(keyed).values() else keyed


def _or(header: PlanHeader) -> str:
    """The releases that hold the TensorRT of a plan, as the other way out."""
    names = [each.name for each in releases().values() if header.version and each.runs_plan_of(header.version)]
    return f"; or serve with Triton {' or '.join(names)}" if names else ""


def _check_use(config: Config, version: VersionFolder, capability: str | None, file: str) -> Iterator[Finding]:
    """Whether a plan fits its key and the configuration's batch, as far as the manifest or its name tells."""
    where, record = f"{version.where}/{file}", version.record_of(file)
    named = _NAMED.search(file)
    built_for = record.compute_capability if record else f"{named[1][:-1]}.{named[1][-1]}" if named else None
    if capability and built_for and not _runs_on(built_for, capability, record):
        source = "the manifest" if record else "its name"
        what = f"built for compute capability {built_for}, as {source} says, and {config.path} gives it to {capability}"
        yield fails("plan-capability", where, what, f"name the plan of {capability}, or {BUILD_PLAN}")
    if record is None:
        return
    largest = max((profile.batch_max for profile in record.profiles), default=0)
    if config.message.max_batch_size > largest > 0:
        what = f"max_batch_size {config.message.max_batch_size} is above the {largest} that {file} was built for"
        yield fails("batch-plan", config.where, what, f"set max_batch_size: {largest}, or {BUILD_PLAN}")
    graph = version.build.get("graph")
    sha256 = graph.get("sha256") if isinstance(graph, dict) else None
    if sha256 and record.graph_sha256 != sha256:
        what = f"built from another graph ({record.graph_sha256[:12]}...) than this version's ({sha256[:12]}...)"
        yield warning("plan-graph", where, what, BUILD_PLAN)


def _runs_on(built_for: str, capability: str, record: PlanRecord | None) -> bool:
    if built_for == capability:
        return True
    on_ampere = record is not None and record.hardware_compatibility == "ampere_plus"
    return on_ampere and parts(built_for) >= AMPERE and parts(capability) >= AMPERE


def _check_one_version(version: VersionFolder, files: Sequence[str]) -> Iterator[Finding]:
    """One server has one TensorRT, and loads the plans of all its GPUs by it."""
    headers = {file: read_plan_header(version.path / file) for file in files}
    plans = [(file, each.version) for file, each in headers.items() if each.version and each.kind is PlanKind.TENSORRT]
    for (first, one), (second, other) in itertools.combinations(plans, 2):
        if not same_version(one, other):
            what = f"built by TensorRT {other}, and {first} beside it by {one}: no server has both"
            yield fails("plan-versions", f"{version.where}/{second}", what, BUILD_PLAN)
            return


def _check_shared(config: Config, version: VersionFolder, gpus: Sequence[GpuTarget]) -> Iterator[Finding]:
    """GPUs of one compute capability load one plan, which is tuned for the GPU that it was built on."""
    by_capability: dict[str, set[str]] = {}
    for gpu in gpus:
        by_capability.setdefault(gpu.compute_capability, set()).add(gpu.slice_of or gpu.name)
    for capability, file in sorted(config.message.cc_model_filenames.items()):
        users = sorted(by_capability.get(capability, ()))
        record = version.record_of(file) if (version.path / file).is_file() else None
        if len(users) > 1 and record and record.hardware_compatibility == "none":
            what = (
                f"{' and '.join(users)} share {file}, built on {record.device or 'one of them'} for that GPU alone; "
                "TensorRT says that this may cost speed or fail"
            )
            fix = "build it with --hardware-compatibility same_compute_capability, or give each GPU a repository"
            yield warning("plan-shared", config.where, what, fix)


def _listed(gpus: Sequence[GpuTarget]) -> str:
    return ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus) or "the GPUs it was built for"


def released_by(model: Model) -> tuple[TritonRelease, ...]:
    """The releases that a model's plans were built in, as its manifests say."""
    names = dict.fromkeys(record.triton or "" for version in model.served for record in version.records)
    return tuple(releases()[name] for name in names if name in releases())
