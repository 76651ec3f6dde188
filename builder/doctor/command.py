"""``python -m builder doctor``: what in a repository would fail when tritonserver loads it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.doctor.findings import Examination, Target
    from builder.gpus import GpuTarget


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    from builder.console import DEFAULT_REPOSITORY

    add = command.add_argument
    add("--repository", type=Path, default=DEFAULT_REPOSITORY)
    add("--triton", metavar="YY.MM", help="the release that will serve (default: the one that plans were built in)")
    add(
        "--gpu",
        action="append",
        default=[],
        help="a GPU that will serve, again for each kind (default: those it was built for)",
    )
    add("--driver", metavar="VERSION", help="the driver that will serve, such as 580.65.06 (default: this machine's)")
    add("--json", action="store_true", help="print the findings as JSON on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Print each finding with its fix; 1 where something would fail to load, else 0.

    Raises:
        RepositoryError: there is no such repository, or it holds no model.
        SpecError: there is no such release, GPU or driver.
    """
    from builder.doctor.diagnosis import examine
    from builder.doctor.findings import Target
    from builder.releases import find_release, parts

    if arguments.driver is not None:
        parts(arguments.driver)
    target = Target(
        release=find_release(arguments.triton) if arguments.triton else None,
        gpus=tuple({gpu.name: gpu for gpu in map(_gpu, arguments.gpu)}.values()),
        driver=arguments.driver or _this_machines_driver(),
    )
    seen = examine(arguments.repository, target)
    if arguments.json:
        print(json.dumps(_plain(seen), indent=2))
    else:
        print("\n".join(lines(seen, target)))
    return 0 if seen.loads else 1


def lines(seen: Examination, target: Target) -> list[str]:
    """The report: what was found, what could not be checked, and how it ended."""
    from builder.doctor.findings import Severity

    told = [str(finding) for finding in seen.findings]
    told += [f"not checked: {reason}" for reason in seen.unchecked]
    failing = sum(finding.severity is Severity.FAILS for finding in seen.findings)
    looked_at = f"{_count(seen.models, 'model')}, {_count(seen.configs, 'configuration')}, {_count(seen.plans, 'plan')}"
    where = f" for Triton {target.release.name}" if target.release else ""
    if not seen.findings:
        return [*told, f"ok: {looked_at}{where}"]
    warnings = _count(len(seen.findings) - failing, "warning")
    return [*told, f"{failing} would fail to load, {warnings}: {looked_at}{where}"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _plain(seen: Examination) -> dict[str, object]:
    return {
        "loads": seen.loads,
        "findings": [finding.to_json() for finding in seen.findings],
        "unchecked": list(seen.unchecked),
        "models": seen.models,
        "configs": seen.configs,
        "plans": seen.plans,
    }


def _gpu(name: str) -> GpuTarget:
    """The GPU of that name, also one that TensorRT no longer supports: that is for the doctor to say."""
    from builder.gpus import find_gpu, known_gpus

    return known_gpus().get(name.strip().lower()) or find_gpu(name)


def _this_machines_driver() -> str | None:
    from builder.nvml import NoGpuError, read_devices

    try:
        return read_devices()[0].driver_version
    except NoGpuError:
        return None
