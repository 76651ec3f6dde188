"""A selection as a request carries it: one parameter, ``select``, that holds JSON.

    {"classes": ["person"], "confidence": 0.5, "region_xyxy": [0, 0, 960, 1080], "maximum": 1}

What is left out selects nothing away. The server's selecting step has a copy of this module.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any

from clients.selection import Selection

PARAMETER = "select"
FIELDS = tuple(field.name for field in dataclasses.fields(Selection))


def selection_text(selection: Selection) -> str:
    """The parameter's value; empty where everything is wanted, and then it need not be sent."""
    defaults = Selection()
    wanted = {name: getattr(selection, name) for name in FIELDS}
    values = {name: value for name, value in wanted.items() if value != getattr(defaults, name)}
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")) if values else ""


def selection_from(text: str) -> Selection:
    """Read the parameter's value; raises ValueError, in one line, for one that is no selection."""
    try:
        values = json.loads(text)
    # JSON that is nested a thousand times over ends in the other.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{PARAMETER}: expected JSON, got {text[:60]!r} ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{PARAMETER}: expected a JSON object of {', '.join(FIELDS)}, got {text[:60]!r}")
    for name in values:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f", nearest: {near[0]}" if near else ""
            raise ValueError(f"{PARAMETER}: no such field {name[:60]!r}{hint}; expected {', '.join(FIELDS)}")
    try:
        return Selection(**{name: _READ[name](name, value) for name, value in values.items()})
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{PARAMETER}: {error}") from error


def _classes(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name}: expected a list of class names, got {_shown(value)}")
    return tuple(value)


def _number(name: str, value: Any) -> float:
    # Python's bool is an int.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: expected a number, got {_shown(value)}")
    return float(value)


def _region(name: str, value: Any) -> tuple[float, float, float, float]:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"{name}: expected four numbers, x1 y1 x2 y2, got {_shown(value)}")
    x1, y1, x2, y2 = (_number(name, side) for side in value)
    return x1, y1, x2, y2


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: expected a whole number, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]


_READ: Mapping[str, Callable[[str, Any], Any]] = {
    "classes": _classes,
    "confidence": _number,
    "region_xyxy": _region,
    "maximum": _whole,
}
