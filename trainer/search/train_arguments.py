"""The command line of a training, from its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trainer.settings import TrainSettings, flag

_NOT_ASKED_FOR = frozenset({"run", "resume", "teacher_sha256"})


def train_arguments(settings: TrainSettings) -> list[str]:
    """The arguments of ``python -m trainer train`` that give these settings, but for the run's folder.

    What is as it is by default is left out.
    """
    words: list[str] = []
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        default = each.default_factory() if callable(each.default_factory) else each.default
        if each.name in _NOT_ASKED_FOR or value == default:
            continue
        if value is True:
            words.append(flag(each.name))
        elif isinstance(value, Mapping):
            words += [word for name, x in value.items() for word in (flag(each.name), f"{name}={_text(x)}")]
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [word for x in values for word in (flag(each.name), str(x))]
    return words


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
