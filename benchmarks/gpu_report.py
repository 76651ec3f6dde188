"""``python -m benchmarks.gpu_report``: run what needs a GPU, and write down what each test saw.

The tests say what they saw by pytest's ``record_property``; it comes back through pytest's JUnit file. A test that did
not run is named with its reason: without a GPU that is every one of them, and nothing is written.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from benchmarks.machine import environment
from benchmarks.tables import key_values
from builder.nvml import NoGpuError, NvmlDevice, read_devices

REPORTS = Path(__file__).with_name("reports")
TESTS = Path(__file__).parents[1] / "tests" / "gpu"
LONGEST_REASON = 300
LIBRARIES = ("tensorrt", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "onnxruntime-gpu", "nvidia-modelopt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one test ended."""

    name: str
    outcome: str
    """``passed``, ``failed`` or ``not run``."""
    seconds: float
    reason: str
    """Why it failed or did not run, in one line."""
    saw: tuple[tuple[str, str], ...]
    """What the test recorded, in its order."""


def read_outcomes(junit_file: Path) -> tuple[Outcome, ...]:
    """The tests of pytest's ``--junitxml``, in their order."""
    # The file is pytest's own, written a moment ago.
    return tuple(_outcome(case) for case in ET.parse(junit_file).iter("testcase"))  # noqa: S314


def _outcome(case: ET.Element) -> Outcome:
    found = {tag: element for tag in ("failure", "error", "skipped") if (element := case.find(tag)) is not None}
    outcome = "not run" if set(found) == {"skipped"} else "failed" if found else "passed"
    messages = [element.get("message", "") for element in found.values()]
    return Outcome(
        name=f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}",
        outcome=outcome,
        seconds=float(case.get("time", 0)),
        reason=shorten(" ".join(messages), LONGEST_REASON, placeholder=" …"),
        saw=tuple((each.get("name", ""), each.get("value", "")) for each in case.iterfind("properties/property")),
    )


def not_run_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Each test that did not run, under its reason; empty where all ran."""
    lines = []
    for reason in dict.fromkeys(each.reason for each in outcomes if each.outcome == "not run"):
        names = [each.name for each in outcomes if each.outcome == "not run" and each.reason == reason]
        lines += [f"NOT RUN ({len(names)}): {reason}", *(f"  {name}" for name in names)]
    return lines


def report_text(device: NvmlDevice, outcomes: Sequence[Outcome], day: datetime.date) -> str:
    """The report: each test and what it saw, what did not run, and with what all this was."""
    counts = {outcome: sum(each.outcome == outcome for each in outcomes) for outcome in ("passed", "failed", "not run")}
    versions = environment((), **_device_rows(device), **_library_rows()) | {"command": "make gpu-test"}
    lines = [
        f"# What was run on a GPU: {device.name}, {day.isoformat()}",
        "",
        ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + ".",
        "",
        "```",
    ]
    for each in outcomes:
        if each.outcome != "not run":
            lines += _lines(each)
    lines += not_run_lines(outcomes)
    return "\n".join([*lines, "", key_values(versions), "```", ""])


def _lines(outcome: Outcome) -> list[str]:
    reason = f": {outcome.reason}" if outcome.reason else ""
    saw = key_values(dict(outcome.saw)).splitlines() if outcome.saw else []
    return [
        f"{outcome.outcome}  {outcome.name}  {outcome.seconds:.1f} s{reason}",
        *(f"    {line}" for line in saw),
    ]


def _device_rows(device: NvmlDevice) -> dict[str, str]:
    memory = "not told" if device.memory_gb is None else f"{device.memory_gb:.1f} GB"
    return {
        "GPU": f"{device.name}, compute capability {device.compute_capability}, {memory}",
        "driver": device.driver_version or "not told",
    }


def _library_rows() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    rows = {}
    for library in LIBRARIES:
        try:
            rows[library] = version(library)
        except PackageNotFoundError:
            # Which of them is there depends on the machine.
            continue
    return rows


def report_path(folder: Path, device: NvmlDevice, day: datetime.date) -> Path:
    """``gpu_<device>_<date>.md``."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.name.lower().removeprefix("nvidia ")).strip("-")
    return folder / f"gpu_{slug}_{day.isoformat()}.md"


def main() -> int:
    """Run the tests; pytest's exit code, 0 also where there is no GPU to run them on."""
    devices: tuple[NvmlDevice, ...] = ()
    reason = ""
    try:
        devices = read_devices()
    except NoGpuError as e:
        reason = str(e)
    with tempfile.TemporaryDirectory() as scratch:
        junit = Path(scratch) / "outcomes.xml"
        command = [sys.executable, "-m", "pytest", str(TESTS), "-m", "gpu", "-rs", f"--junitxml={junit}"]
        # In the newer family record_property is not allowed.
        code = subprocess.run([*command, "-o", "junit_family=xunit1"], check=False).returncode
        outcomes = read_outcomes(junit) if junit.is_file() else ()
    for line in not_run_lines(outcomes):
        print(line)
    if not devices:
        print(f"no GPU test ran, and no report was written: {reason}")
        return code
    if not outcomes:
        print(f"no report was written: pytest ended early, with exit code {code}")
        return code or 1
    day = datetime.date.today()
    path = report_path(REPORTS, devices[0], day)
    path.write_text(report_text(devices[0], outcomes, day))
    print(f"report: {path}")
    return code


if __name__ == "__main__":
    sys.exit(main())
