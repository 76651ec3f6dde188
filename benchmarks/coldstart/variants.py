"""Copies of a repository that warm less than it does, so that what its warmup gains can be measured."""

from __future__ import annotations

import enum
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.errors import RepositoryError

_SERVED = "served_model.py"
# A runtime that does not run what it has compiled is as cold as one that nobody warmed.
_COLD_MODEL = f"""\
import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("served_model", Path(__file__).with_name("{_SERVED}"))
served = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(served)


class TritonPythonModel(served.TritonPythonModel):
    def initialize(self, args):
        start, served._start = served._start, lambda image, runner: None
        try:
            super().initialize(args)
        finally:
            served._start = start
"""
_OWN_WARMUP = "def _start(image: Tensors, runner: ov.InferRequest) -> None:"


class Warmup(enum.StrEnum):
    """What has run before a model is READY."""

    AS_BUILT = "as built"
    """``model_warmup`` of its configuration, and where it has a ``model.py`` what that runs as it loads."""
    NO_MODEL_WARMUP = "without model_warmup"
    """What ``model.py`` runs as it loads, where it has one: else nothing."""
    NOTHING = "nothing warmed"
    """Neither."""


def variants_of(repository: Path, model: str) -> tuple[Warmup, ...]:
    """What can be measured of a model: NOTHING is another than NO_MODEL_WARMUP only where a ``model.py`` warms."""
    warms_itself = any(_warms_itself(path) for path in (repository / model).glob("*/model.py"))
    return tuple(each for each in Warmup if each is not Warmup.NOTHING or warms_itself)


def write_variant(repository: Path, models: Sequence[str], warmup: Warmup, folder: Path) -> Path:
    """A repository of these models in ``folder`` that warms so much; the repository itself where that is AS_BUILT.

    Raises:
        RepositoryError: a configuration cannot be read, or the models cannot be copied.
    """
    if warmup is Warmup.AS_BUILT:
        return repository
    target = folder / warmup.name.lower()
    try:
        for model in models:
            shutil.copytree(repository / model, target / model)
            for config in [target / model / "config.pbtxt", *(target / model / "configs").glob("*.pbtxt")]:
                _take_out_model_warmup(config)
            if warmup is Warmup.NOTHING:
                for path in (target / model).glob("*/model.py"):
                    _take_out_own_warmup(path)
    except OSError as e:
        raise RepositoryError(
            f"expected to copy {', '.join(models)} of {repository} to {target}, got: {e}; "
            "free space there, or set TMPDIR"
        ) from e
    return target


def _take_out_model_warmup(path: Path) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (UnicodeDecodeError, text_format.ParseError) as e:
        reason = " ".join(str(e).split())
        raise RepositoryError(f"{path}: expected a Triton model configuration, got: {reason}; build it again") from e
    config.ClearField("model_warmup")
    path.write_text(text_format.MessageToString(config, as_utf8=True))


def _take_out_own_warmup(path: Path) -> None:
    if _warms_itself(path):
        path.rename(path.with_name(_SERVED))
        path.write_text(_COLD_MODEL)


def _warms_itself(path: Path) -> bool:
    """Whether it is the builder's model on OpenVINO, which runs its graph as it loads."""
    return _OWN_WARMUP in path.read_text(errors="replace")
