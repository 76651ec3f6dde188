"""One model of a repository as the doctor reads it: configurations, versions, manifests; nothing is judged here."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from builder.errors import RepositoryError, SpecError
from builder.gpus import GpuTarget, known_gpus, mig_slices
from builder.manifest import MANIFEST, read_manifest, record_of
from builder.plans import PlanRecord
from builder.releases import parts

if TYPE_CHECKING:
    from builder.doctor.findings import Target

ModelConfig: TypeAlias = Any
"""tritonclient's protobuf message, which has no type stubs."""

PLATFORMS = {
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}
# By what Triton tells the backend of a configuration that names none (core's AutoCompleteBackendFields).
DEFAULT_FILES = {
    "tensorrt": "model.plan",
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "pytorch": "model.pt",
    "python": "model.py",
}
ENSEMBLE = "ensemble"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionFolder:
    """``<repository>/NAME/<number>``, and what its manifest says."""

    path: Path
    number: int
    where: str
    """As seen from the repository: ``shapes/1``."""
    build: Mapping[str, Any]
    """The manifest's ``build``; empty where there is no manifest that can be read."""
    files: Mapping[str, Mapping[str, Any]]
    """The manifest's ``files``; empty likewise."""
    records: tuple[PlanRecord, ...]
    """What the manifest says of the version's plans."""

    @property
    def graph_file(self) -> str | None:
        """The served graph, where it is there: what the manifest names, else ``model.onnx``."""
        graph = self.build.get("graph")
        named = graph.get("file") if isinstance(graph, dict) else None
        name = named if isinstance(named, str) else "model.onnx"
        return name if (self.path / name).is_file() else None

    @property
    def gpus(self) -> tuple[GpuTarget, ...]:
        """The GPUs that the version was built for."""
        named = self.build.get("gpus")
        known = map(gpu_named, named) if isinstance(named, dict) else ()
        return tuple(gpu for gpu in known if gpu is not None)

    @property
    def published(self) -> bool:
        """Whether ``build`` wrote it; a model that was written by hand needs no manifest."""
        return (self.path / MANIFEST).exists() or (self.path / "configs").is_dir()

    def record_of(self, file: str) -> PlanRecord | None:
        """What is known of the plan in this file, by its content: a plan that was moved is still the plan it was."""
        if not self.records:
            return None
        sha256 = _sha256(self.path / file, (self.path / file).stat().st_mtime_ns)
        by_sha256 = {self.files.get(each.file, {}).get("sha256"): each for each in self.records}
        # A file that no record describes was damaged or put there: the record of its name is no use.
        return by_sha256.get(sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """``config.pbtxt`` or ``configs/NAME.pbtxt``."""

    path: str
    """As seen from the model's folder."""
    where: str
    """As seen from the repository."""
    message: ModelConfig
    """An empty one where the file cannot be parsed."""
    error: str | None = None
    """Why it cannot be parsed."""

    @property
    def gpu(self) -> GpuTarget | None:
        """The GPU that a ``configs/<gpu>.pbtxt`` is for."""
        return gpu_named(Path(self.path).stem) if self.path.startswith("configs/") else None

    @property
    def on_cpu(self) -> bool:
        """Whether no instance of it runs on a GPU."""
        kinds = {group.Kind.Name(group.kind) for group in self.message.instance_group}
        return kinds == {"KIND_CPU"}

    @property
    def is_ensemble(self) -> bool:
        """Whether it has no backend of its own, but steps."""
        return bool(self.message.platform == ENSEMBLE or self.message.HasField("ensemble_scheduling"))

    def gpus(self, version: VersionFolder, target: Target) -> tuple[GpuTarget, ...]:
        """The GPUs that it serves: its own, those asked for, or those that the version was built for."""
        if self.on_cpu:
            return ()
        return (self.gpu,) if self.gpu is not None else target.gpus or version.gpus

    @property
    def is_empty(self) -> bool:
        """Whether the file can be parsed, and says nothing."""
        return self.error is None and not self.message.ListFields()

    @property
    def named_backend(self) -> str:
        """The backend as the configuration names it; empty where it does not."""
        return str(self.message.backend or PLATFORMS.get(self.message.platform, self.message.platform))


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One folder of a repository."""

    repository: Path
    name: str
    configs: tuple[Config, ...]
    siblings: frozenset[str]
    """Every model of the repository."""
    versions: tuple[VersionFolder, ...]
    """Newest first."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.repository / self.name

    @property
    def hidden(self) -> bool:
        """Whether it is a folder that is not meant to be seen."""
        return self.name.startswith(".")

    def loaded(self, config: Config) -> tuple[VersionFolder, ...]:
        """The versions that Triton loads by a configuration; those that are not there are left out."""
        policy = config.message.version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "specific":
            return tuple(each for each in self.versions if each.number in policy.specific.versions)
        if choice == "all":
            return self.versions
        return self.versions[: policy.latest.num_versions if choice == "latest" else 1]

    def backend(self, config: Config) -> str:
        """The backend that serves a configuration, also where Triton has to tell it from the files; or empty."""
        if config.named_backend or config.is_ensemble:
            return config.named_backend
        file = config.message.default_model_filename
        if file:
            return next((each for each, name in DEFAULT_FILES.items() if Path(name).suffix == Path(file).suffix), "")
        folders = self.loaded(config)
        there = (each for each, name in DEFAULT_FILES.items() if any((one.path / name).exists() for one in folders))
        return next(there, "")

    @property
    def served(self) -> tuple[VersionFolder, ...]:
        """Every version that any of its configurations loads."""
        by_number = {version.number: version for config in self.configs for version in self.loaded(config)}
        return tuple(by_number.values())

    @property
    def fleet(self) -> tuple[GpuTarget, ...]:
        """The GPUs that these versions were built for."""
        return tuple({gpu.name: gpu for version in self.served for gpu in version.gpus}.values())


def gpu_named(name: str) -> GpuTarget | None:
    """The GPU, or the MIG slice of one, that files are named after."""
    return known_gpus().get(name) or next((each for each in mig_slices().values() if each.name == name), None)


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, changed_ns: int) -> str:
    """The hash of a file as it is since then; a plan is asked for by each configuration that names it."""
    return record_of(path).sha256


def read_models(repository: Path) -> tuple[Model, ...]:
    """Every model of a repository.

    Raises:
        RepositoryError: there is no such repository, it holds no model, or it cannot be read.
    """
    advice = "write one with: python -m builder build"
    if not repository.is_dir():
        found = "a file" if repository.exists() else "nothing"
        raise RepositoryError(f"expected a model repository at {repository}, found {found}; {advice}")
    try:
        names = sorted(path.name for path in repository.iterdir() if path.is_dir())
        if not names:
            raise RepositoryError(f"expected at least one model in {repository}, found none; {advice}")
        return tuple(_read_model(repository, name, frozenset(names)) for name in names)
    except OSError as error:
        raise RepositoryError(f"cannot read {error.filename}: {error.strerror}") from error


def _read_model(repository: Path, name: str, siblings: frozenset[str]) -> Model:
    folder = repository / name
    paths = ["config.pbtxt"] if (folder / "config.pbtxt").exists() else []
    paths += sorted(f"configs/{each.name}" for each in (folder / "configs").glob("*.pbtxt") if each.exists())
    return Model(
        repository=repository,
        name=name,
        configs=tuple(_read_config(repository, name, path) for path in paths),
        siblings=siblings,
        versions=tuple(_read_version(folder / str(number), number) for number in _numbers(folder)),
    )


def _numbers(folder: Path) -> list[int]:
    """The versions as Triton finds them, newest first: it takes 0, and no leading zero."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted((int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,18}", name)), reverse=True)


def _read_config(repository: Path, name: str, path: str) -> Config:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    message, error = pb.ModelConfig(), None
    try:
        text_format.Parse((repository / name / path).read_bytes().decode(), message)
    except (text_format.ParseError, UnicodeDecodeError, OSError) as e:
        message, error = pb.ModelConfig(), re.sub(r"\s+", " ", str(e))
    return Config(path=path, where=f"{name}/{path}", message=message, error=error)


def _read_version(path: Path, number: int) -> VersionFolder:
    build: Any = {}
    files: Any = {}
    try:
        manifest = read_manifest(path)
        build, files = manifest.get("build"), manifest["files"]
    except RepositoryError:
        # check_version says why.
        pass
    build = build if isinstance(build, dict) else {}
    where = f"{path.parent.name}/{number}"
    return VersionFolder(path=path, number=number, where=where, build=build, files=files, records=_records(build))


def _records(build: Mapping[str, Any]) -> tuple[PlanRecord, ...]:
    """The manifest's plans; one that lacks something, or has what cannot be, is left out."""
    records = []
    plans: Sequence[Any] = build["plans"] if isinstance(build.get("plans"), list) else ()
    for each in plans:
        try:
            record = PlanRecord.from_json(each)
            for version in (record.version, record.compute_capability):
                parts(version)
        except (KeyError, TypeError, ValueError, AttributeError, SpecError):
            continue
        texts = (record.file, record.graph_sha256, record.hardware_compatibility, record.triton or "")
        if all(isinstance(text, str) for text in texts):
            records.append(record)
    return tuple(records)
