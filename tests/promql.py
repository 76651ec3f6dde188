"""The files of deploy/ that hold PromQL, and the names that an expression uses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULE_FILES = ("goals.yml", "rules.yml", "alerts.yml")
PACKAGE = "prometheus"

GPU_METRICS = frozenset(
    {
        "nv_gpu_power_usage",
        "nv_gpu_power_limit",
        "nv_energy_consumption",
        "nv_gpu_utilization",
        "nv_gpu_memory_total_bytes",
        "nv_gpu_memory_used_bytes",
    }
)
"""As Triton's docs/user_guide/metrics.md documents them; a server without a GPU does not show them."""

_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"")
_LABELS = re.compile(r"\{[^{}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}


def executable(name: str) -> str:
    """Where prometheus or promtool is; skips the test, with the command that mends it, where it is missing."""
    found = shutil.which(name)
    if not found:
        pytest.skip(f"needs {name}: apt-get install {PACKAGE}")
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What promtool says of these files."""
    command = [executable("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def metric_names(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads: its names that are no function, keyword, label or string."""
    bare = _LABELS.sub(" ", _STRING.sub(" ", expression))
    return set(_NAME.findall(bare)) - _WORDS


def rules() -> Iterator[dict[str, Any]]:
    """Every rule of every file."""
    for file in RULE_FILES:
        for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"]:
            yield from group["rules"]


def dashboard() -> dict[str, Any]:
    """Grafana's dashboard."""
    model: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    return model


def panel_expressions(model: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The expressions of each panel by its title, with every variable standing for all."""
    return {
        panel["title"]: tuple(re.sub(r"\$(server|model)\b", ".*", target["expr"]) for target in panel["targets"])
        for panel in model["panels"]
        if "targets" in panel
    }
