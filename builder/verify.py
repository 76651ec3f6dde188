"""Verifies a model repository: every file against its manifest, every configuration against the version it names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.errors import RepositoryError
from builder.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    VERSION_NAME,
    check_version,
    kind_message,
    read_manifest,
    versions_of,
)
from builder.training_run import training_line

NEWER = "a newer release of this project wrote it"
_SCHEMA = re.compile(rf"{re.escape(MANIFEST)}: expected schema_version \d+, got (\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing in a repository that is not as it was published."""

    model: str
    version: int | None
    """None: the finding is about the model, not about one version."""
    message: str
    """The file, what was expected and what was found."""

    def __str__(self) -> str:
        """One line, beginning with the model and its version."""
        return f"{self.model}{'' if self.version is None else f' {self.version}'}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReport:
    """What ``verify`` found out about one model."""

    model: str
    version: int | None
    """The version that config.pbtxt names; None where that cannot be told."""
    files: int
    """How many files of how many versions were compared with their manifests."""
    findings: tuple[Finding, ...]
    training: str = ""
    """What the manifest of that version says of the training, in a line."""
    foreign: bool = False
    """Whether it is somebody else's model, of which no manifest tells what it should be."""

    @property
    def ok(self) -> bool:
        """Whether all is as it was published, or nothing was."""
        return not self.findings

    def __str__(self) -> str:
        """One line where all is well, else one line for each finding."""
        if self.findings:
            return "\n".join(map(str, self.findings))
        if self.foreign:
            return f"{self.model}: not published by this project, not checked"
        ok = f"{self.model} {self.version}: ok ({self.files} files)"
        return f"{ok}; {self.training}" if self.training else ok


def verify(repository: Path, name: str | None = None) -> tuple[ModelReport, ...]:
    """Compare every model of a repository, or the one named, with what was published.

    Raises:
        RepositoryError: there is no such repository or model, or nothing was published in it.
    """
    if not repository.is_dir():
        found = "a file" if repository.exists() else "nothing"
        raise RepositoryError(
            f"expected a model repository at {repository}, found {found}; write one with: python -m builder build"
        )
    try:
        models = sorted(path.name for path in repository.iterdir() if path.is_dir())
        if name is not None and name not in models:
            raise RepositoryError(f"expected a model named {name} in {repository}, found {', '.join(models) or 'none'}")
        dead = sorted(path.name for path in repository.iterdir() if path.is_symlink() and not path.exists())
        if not models and not dead:
            raise RepositoryError(
                f"expected at least one model in {repository}, found none; write one with: python -m builder build"
            )
        reports = [_report(repository, model) for model in models if name in (None, model)]
        # One such link, and tritonserver loads no model at all, whichever is asked about.
        reports += [_dead_link(repository, link) for link in dead]
    except OSError as error:
        raise RepositoryError(f"cannot read {error.filename}: {error.strerror}") from error
    if all(report.foreign for report in reports):
        named = f"model {name} of {repository}" if name else f"a model of {repository}"
        raise RepositoryError(
            f"expected {named} to be published by this project, found no manifest; publish one with: python -m builder "
            "build, or look at what is there with: python -m builder doctor"
        )
    return tuple(reports)


def explained(message: str) -> str:
    """A message of ``check_version``, with the reason where a manifest's schema is newer than this program."""
    schema = _SCHEMA.fullmatch(message)
    return f"{message}; {NEWER}" if schema and int(schema[1]) > SCHEMA_VERSION else message


def _dead_link(repository: Path, name: str) -> ModelReport:
    target = (repository / name).readlink()
    message = f"a symbolic link to {target}, where nothing is; tritonserver loads no model beside it; remove it"
    return ModelReport(
        model=name, version=None, files=0, findings=(Finding(model=name, version=None, message=message),)
    )


def _is_foreign(model: Path) -> bool:
    """Whether it is a model, and no version of it was published by this project."""
    versions = [model / str(number) for number in versions_of(model)]
    ours = any((version / MANIFEST).exists() or (version / "configs").is_dir() for version in versions)
    return not ours and (model / "config.pbtxt").is_file()


def _report(repository: Path, name: str) -> ModelReport:
    model = repository / name
    version, files = None, 0
    if name.startswith("."):
        message = "tritonserver takes a hidden folder for a model too, and does not start with it; move it elsewhere"
        findings = [Finding(model=name, version=None, message=message)]
    elif not versions_of(model) and not (model / "config.pbtxt").exists():
        message = "no model, and tritonserver takes every folder for one, and does not start with it; move it elsewhere"
        findings = [Finding(model=name, version=None, message=message)]
    elif _is_foreign(model):
        return ModelReport(model=name, version=None, files=0, findings=(), foreign=True)
    elif not model.resolve().is_relative_to(repository.resolve()):
        message = f"a symbolic link to {model.resolve()}, outside the repository"
        findings = [Finding(model=name, version=None, message=message)]
    else:
        version, messages = _check_configs(model)
        findings = [Finding(model=name, version=None, message=message) for message in messages]
        for number in sorted(versions_of(model)):
            check = check_version(model / str(number))
            files += check.files
            findings += [Finding(model=name, version=number, message=explained(each)) for each in check.messages]
    training = "" if findings or version is None else _training(model / str(version))
    return ModelReport(model=name, version=version, files=files, findings=tuple(findings), training=training)


def _training(folder: Path) -> str:
    build = read_manifest(folder).get("build")
    return training_line(build.get("training")) if isinstance(build, dict) else ""


def _check_configs(model: Path) -> tuple[int | None, list[str]]:
    """The version that config.pbtxt names, and what is wrong with the configurations and the files beside them."""
    selected: dict[str, int | None] = {}
    messages = []
    for path in ("config.pbtxt", *sorted(f"configs/{each.name}" for each in (model / "configs").glob("*"))):
        selected[path], found = _check_config(model, path)
        messages += [f"{path}: {message}" for message in found]
    version = selected["config.pbtxt"]
    for copy in sorted((model / str(version) / "configs").glob("*.pbtxt")):
        if copy.name != "config.pbtxt" and f"configs/{copy.name}" not in selected:
            messages.append(f"configs/{copy.name}: missing, version {version} was published with it")
    for entry in sorted(model.iterdir()):
        # A build that is running, or was killed, has its temporary folder here; tritonserver does not look into it.
        ours = entry.name in ("config.pbtxt", "configs") or entry.name.startswith(".tmp-")
        if not ours and not (VERSION_NAME.fullmatch(entry.name) and entry.is_dir()):
            messages.append(f"{entry.name}: not in any manifest")
    return version, messages


def _check_config(model: Path, path: str) -> tuple[int | None, list[str]]:
    """The one version that a configuration names, where it does, and what is wrong with it."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    if message := kind_message(model / path, model.parent):
        return None, [message]
    content = (model / path).read_bytes()
    try:
        config = text_format.Parse(content.decode(), pb.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        return None, [f"expected a Triton model configuration, got: {error}"]
    messages = []
    if config.name != model.name:
        messages.append(f"expected name {model.name!r}, as the folder says, got {config.name!r}")
    versions = list(config.version_policy.specific.versions)
    if len(versions) != 1:
        return None, [*messages, f"expected a version_policy that names one specific version, got {versions}"]
    (version,) = versions
    published = model / str(version) / "configs" / Path(path).name
    if version not in versions_of(model):
        messages.append(f"names version {version}, which is not there; tritonserver would not load the model")
    elif not published.is_file():
        messages.append(f"names version {version}, which was not published with it")
    elif published.read_bytes() != content:
        messages.append(f"differs from {version}/configs/{published.name}, as it was published")
    return version, messages
