"""The settings that a search tries, read from a YAML file, each with what it may be.

    lr0: {loguniform: [1e-4, 1e-2]}       # between the two, every power of ten alike
    mosaic: {uniform: [0, 1]}             # between the two
    close_mosaic: {randint: [0, 10]}      # a whole number, both ends included
    optimizer: {choice: [SGD, AdamW]}     # one of these

A trial's values depend on the seed, the trial's number and the setting's name alone: a search may be made longer, and
trial 3 of 10 is trial 3 of 100.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import SpecError
from trainer.settings import OPTIMIZERS, TUNABLE, TrainSettings, check_value

if TYPE_CHECKING:
    import yaml

Value = float | int | str | bool

_FLAGS = frozenset({"channels_last", "cos_lr"})
_WHOLE = frozenset({"batch", "imgsz", "seed", "nbs", "close_mosaic"})
_WORDS = frozenset({"optimizer", "scale_lr", "precision", "model", "weights", "freeze"})
_REAL = (TUNABLE | {"lr0", "lrf"}) - _WHOLE - _FLAGS
NAMES = _REAL | _WHOLE | _WORDS | _FLAGS
"""What can be searched. Not the epochs: trials are compared by them."""


class Kind(StrEnum):
    """How a value is drawn."""

    UNIFORM = "uniform"
    LOGUNIFORM = "loguniform"
    RANDINT = "randint"
    CHOICE = "choice"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension:
    """One setting that is searched."""

    name: str
    kind: Kind
    values: tuple[Value, ...]
    """The two ends, or the choices."""

    def draw(self, seed: int, trial: int) -> Value:
        """The value of a trial."""
        import numpy as np

        generator = np.random.default_rng([seed, trial, zlib.crc32(self.name.encode())])
        if self.kind is Kind.CHOICE:
            return self.values[int(generator.integers(len(self.values)))]
        low, high = (float(value) for value in self.values)
        if self.kind is Kind.RANDINT:
            return int(generator.integers(int(low), int(high), endpoint=True))
        if self.kind is Kind.LOGUNIFORM:
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            value = float(generator.uniform(low, high))
        # Six digits, as they are shown: who types them in trains the same.
        return min(max(float(f"{value:.6g}"), low), high)


@dataclass(frozen=True, slots=True)
class Space:
    """All that is searched."""

    dimensions: tuple[Dimension, ...]

    def draw(self, seed: int, trial: int) -> dict[str, Value]:
        """The values of a trial by name."""
        return {each.name: each.draw(seed, trial) for each in self.dimensions}

    def to_json(self) -> dict[str, Any]:
        """As in the YAML file."""
        return {each.name: {each.kind.value: list(each.values)} for each in self.dimensions}


def space_from_json(content: Mapping[str, Mapping[str, Sequence[Value]]]) -> Space:
    """What ``to_json`` gave."""
    return Space(
        tuple(
            Dimension(name=name, kind=Kind(kind), values=tuple(values))
            for name, how in content.items()
            for kind, values in how.items()
        )
    )


def read_space(path: Path) -> Space:
    """The space of a YAML file.

    Raises:
        SpecError: it cannot be read, or a line of it is wrong; the message names the line.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
    except OSError as e:
        raise SpecError(f"--space {path} cannot be read: {e.strerror}.") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SpecError(f"--space {path}{line}: no YAML: {getattr(e, 'problem', None) or e}.") from e
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise SpecError(
            f"--space {path}: expected settings and what they may be, such as 'lr0: {{loguniform: [0.0001, 0.01]}}'."
        )
    dimensions: dict[str, Dimension] = {}
    for key, value in node.value:
        try:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "what is no name"
            if name in dimensions:
                raise SpecError(f"{name} stands twice")
            dimensions[name] = _dimension(name, _content(loader, value), path.parent)
        except SpecError as e:
            raise SpecError(f"--space {path}, line {key.start_mark.line + 1}: {str(e).rstrip('.')}.") from e
    return Space(tuple(dimensions.values()))


def with_values(settings: TrainSettings, values: Mapping[str, Value]) -> TrainSettings:
    """The settings of a trial.

    Raises:
        SpecError: they do not go together.
    """
    changed: dict[str, Any] = {name: value for name, value in values.items() if name not in TUNABLE}
    if "weights" in changed:
        changed["weights"] = Path(changed["weights"])
    if "freeze" in changed:
        changed["freeze"] = tuple(str(changed["freeze"]).split())
    tuned: dict[str, Any] = {name: value for name, value in values.items() if name in TUNABLE}
    return dataclasses.replace(settings, hyperparameters={**settings.hyperparameters, **tuned}, **changed)


def _content(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    import yaml

    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as e:
        raise SpecError(" ".join(str(e).split())) from e


def _dimension(name: str, content: Any, folder: Path) -> Dimension:
    if name not in NAMES:
        raise SpecError(f"{name} is nothing that can be searched; there are: {', '.join(sorted(NAMES))}")
    if not isinstance(content, dict) or len(content) != 1 or next(iter(content)) not in list(Kind):
        raise SpecError(f"{name}: expected {_written(_kinds(name))}, got {content!r}")
    kind, given = next((Kind(kind), given) for kind, given in content.items())
    if kind not in _kinds(name):
        raise SpecError(f"{name}: expected {_written(_kinds(name))}, got {kind}")
    if not isinstance(given, list) or not given:
        raise SpecError(f"{name}: expected a list after {kind}, got {given!r}")
    values = tuple(_value(name, each) for each in given)
    if name in ("weights", "model"):
        values = tuple(_file_or_name(str(each), folder) for each in values)
    if kind is Kind.CHOICE:
        if len(set(values)) != len(values):
            raise SpecError(f"{name}: a choice stands twice in {given!r}")
    else:
        _check_ends(name, kind, values)
    for value in values:
        _check_value(name, value)
    return Dimension(name=name, kind=kind, values=values)


def _written(kinds: Sequence[Kind]) -> str:
    return " or ".join(f"{{{kind}: {'[…]' if kind is Kind.CHOICE else '[lowest, highest]'}}}" for kind in kinds)


def _value(name: str, given: Any) -> Value:
    """A value as the setting wants it: to YAML 1e-4 is a text."""
    if name in _FLAGS or name in _WORDS:
        wanted, what = (bool, "true or false") if name in _FLAGS else (str, "text")
        if not isinstance(given, wanted):
            raise SpecError(f"{name}: expected {what}, got {given!r}")
        value: Value = given
        return value
    try:
        number = float("nan") if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number):
        raise SpecError(f"{name}: expected a finite number, got {given!r}")
    if name in _WHOLE:
        if number != int(number):
            raise SpecError(f"{name}: expected a whole number, got {given!r}")
        return int(number)
    return number


def _file_or_name(given: str, folder: Path) -> str:
    """A file as any process finds it; the name of a model that Ultralytics describes stays."""
    path = folder / given
    return str(path.absolute()) if path.exists() else given


def _check_ends(name: str, kind: Kind, values: tuple[Any, ...]) -> None:
    if len(values) != 2 or not values[0] < values[1]:
        raise SpecError(f"{name}: expected [lowest, highest] after {kind}, got {list(values)!r}")
    if kind is Kind.LOGUNIFORM and not values[0] > 0:
        raise SpecError(f"{name}: loguniform begins above 0, got {values[0]!r}; expected, for example, 0.0001")


def _kinds(name: str) -> tuple[Kind, ...]:
    if name in _REAL:
        return (Kind.UNIFORM, Kind.LOGUNIFORM, Kind.CHOICE)
    # Only each 32nd is a size.
    return (Kind.RANDINT, Kind.CHOICE) if name in _WHOLE - {"imgsz"} else (Kind.CHOICE,)


def _check_value(name: str, value: Any) -> None:
    if not isinstance(value, str):
        check_value(name, value, called=name)
    if name == "weights" and not Path(value).is_file():
        raise SpecError(f"weights: expected a .pt, there is no file {value}")
    # The settings know their own limits; an optimizer, as a rate needs one.
    settings = TrainSettings(data=Path(), run=Path(), optimizer=OPTIMIZERS[1])
    try:
        with_values(settings, {name: value})
    except SpecError as e:
        raise SpecError(str(e).removeprefix("--")) from e
