"""Finds before deployment what would fail when tritonserver loads a repository; reads files and starts nothing.

Needed are neither a GPU nor TensorRT nor a server. What cannot be compared is said, not passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.doctor.config import BUILD_AGAIN, check_config, check_model
from builder.doctor.findings import Examination, Finding, Severity, Target, warning
from builder.doctor.graph import check_accelerator, check_graph
from builder.doctor.links import CHECK as DEAD_LINK
from builder.doctor.links import check_links, check_repository_links
from builder.doctor.machine import check_driver, check_gpus, check_release
from builder.doctor.memory import check_memory
from builder.doctor.model import Model, VersionFolder, read_models
from builder.doctor.plans import PlanChecks, released_by
from builder.doctor.warmup import check_warmup
from builder.errors import RepositoryError
from builder.gpus import GpuTarget
from builder.manifest import check_version, record_of
from builder.releases import TritonRelease
from builder.verify import NEWER, explained


def diagnose(
    repository: Path,
    *,
    release: TritonRelease | None = None,
    gpus: Sequence[GpuTarget] = (),
    driver: str | None = None,
) -> tuple[Finding, ...]:
    """Everything that was found wrong with a repository, what fails to load first; empty: nothing.

    Raises:
        RepositoryError: there is no such repository, it holds no model, or it cannot be read.
        SpecError: ``driver`` is no version.
    """
    return examine(repository, Target(release=release, gpus=tuple(gpus), driver=driver)).findings


def examine(repository: Path, target: Target) -> Examination:
    """What ``diagnose`` finds, and what could not be compared.

    Without a release, plans are compared with that in which their manifest says that they were built. Without GPUs, a
    model is compared with those that its manifest says it was built for.

    Raises:
        RepositoryError: there is no such repository, it holds no model, or it cannot be read.
        SpecError: ``target.driver`` is no version.
    """
    models = read_models(repository)
    findings: list[Finding] = []
    unchecked: list[str] = []
    plans = 0
    try:
        findings += check_repository_links(repository)
        for model in models:
            checks = PlanChecks(model=model, target=target)
            findings += _check_one(model, checks)
            unchecked += checks.unchecked
            plans += len(checks.seen)
    except OSError as error:
        raise RepositoryError(f"cannot read {error.filename}: {error.strerror}") from error
    findings += _check_machine(models, target, unchecked)
    # Where it is known what is wrong with a file.
    failing = {
        finding.where for finding in findings if finding.severity is Severity.FAILS or finding.check == DEAD_LINK
    }
    # That it is not as it was published says nothing new then.
    told = [each for each in findings if each.check not in _PUBLISHED or each.where not in failing]
    told.sort(key=lambda finding: finding.severity is not Severity.FAILS)
    return Examination(
        findings=tuple({_subject(finding): finding for finding in reversed(told)}.values())[::-1],
        unchecked=tuple(dict.fromkeys(unchecked)),
        models=len(models),
        configs=sum(len(model.configs) for model in models),
        plans=plans,
    )


_PUBLISHED = ("manifest", "config-edited")


def _subject(finding: Finding) -> tuple[str, ...]:
    """What a finding is about: a file that several configurations name is one thing, each configuration another."""
    of_config = finding.where.endswith(".pbtxt")
    return (finding.check, finding.where, finding.what if of_config else finding.fix)


def _check_one(model: Model, plans: PlanChecks) -> Iterator[Finding]:
    yield from check_model(model)
    if model.hidden or not (model.configs or model.versions):
        return
    yield from check_links(model)
    for config in model.configs:
        yield from check_config(model, config)
        yield from check_warmup(model, config)
        yield from check_graph(model, config)
        yield from check_accelerator(config)
        yield from plans.check(config)
        yield from check_memory(model, config, plans.target)
    for version in model.served:
        if version.published:
            yield from _check_published(version)


def _check_published(version: VersionFolder) -> Iterator[Finding]:
    """How a version differs from its manifest; what a link leads to is as good as a file, if it is the same."""
    for message in check_version(version.path).messages:
        file, _, what = explained(message).partition(": ")
        path, record = version.path / file, version.files.get(file)
        if what.startswith("a symbolic link to ") and record is not None and path.is_file():
            found = record_of(path)
            if (found.size_bytes, found.sha256) == (record["bytes"], record["sha256"]):
                continue
            what = f"expected sha256 {record['sha256'][:12]}..., found {found.sha256[:12]}... in {path.resolve()}"
        fix = f"copy it again from where it was built, or {BUILD_AGAIN}"
        if what.endswith(NEWER):
            fix = "take that release of this project to look at it, or to build it again"
        yield warning("manifest", f"{version.where}/{file}", what, fix)


def _check_machine(models: Sequence[Model], target: Target, unchecked: list[str]) -> list[Finding]:
    """What is wrong with the driver and the GPUs for the release asked for, or for those that plans were built in."""
    named = {each.name: each for model in models for each in released_by(model)}
    wanted = [target.release] if target.release else list(named.values())
    gpus = target.gpus or tuple({gpu.name: gpu for model in models for gpu in model.fleet}.values())
    if not wanted:
        unchecked.append("driver and GPUs are compared with no release of Triton: name it with --triton")
        return list(check_gpus(None, gpus))
    findings: list[Finding] = []
    for release in wanted:
        findings += check_release(release)
        findings += check_gpus(release, gpus)
        if target.driver is not None:
            findings += check_driver(release, target.driver, gpus)
    if target.driver is None:
        unchecked.append("no driver is compared: this machine has none, name the one that will serve with --driver")
    return findings
