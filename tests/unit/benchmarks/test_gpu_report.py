"""What make gpu-test says and writes, from real runs of pytest."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_report
from benchmarks.gpu_report import Outcome, not_run_lines, read_outcomes, report_path, report_text
from builder.nvml import NoGpuError, NvmlDevice, read_devices

PROJECT = Path(__file__).parents[3]
DEVICE = NvmlDevice(
    name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", compute_capability="8.0", memory_gb=5.0, driver_version="580.65.06"
)
DAY = datetime.date(2026, 11, 22)

TESTS = """
import pytest

def test_seen(record_property):
    record_property("memory", "30 MB")
    record_property("detections", 28)

def test_wrong(record_property):
    record_property("memory", "60 MB")
    assert 60 <= 30, "too much"

@pytest.mark.parametrize("library", ["a", "b"])
def test_absent(library):
    pytest.skip("tensorrt is not installed")

@pytest.mark.skip(reason="no <such> GPU")
def test_elsewhere():
    pass

def test_broken(no_such_fixture):
    pass
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, ...]:
    folder = tmp_path_factory.mktemp("run")
    (folder / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "test_some.py", "--junitxml=out.xml", "-p", "no:cacheprovider"]
    assert subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode == 1
    return read_outcomes(folder / "out.xml")


def test_every_test_comes_back_with_its_end_and_what_it_saw(outcomes: tuple[Outcome, ...]) -> None:
    assert [(each.name, each.outcome) for each in outcomes] == [
        ("test_some::test_seen", "passed"),
        ("test_some::test_wrong", "failed"),
        ("test_some::test_absent[a]", "not run"),
        ("test_some::test_absent[b]", "not run"),
        ("test_some::test_elsewhere", "not run"),
        ("test_some::test_broken", "failed"),
    ]
    assert outcomes[0].saw == (("memory", "30 MB"), ("detections", "28"))
    assert outcomes[1].saw == (("memory", "60 MB"),)
    assert "too much" in outcomes[1].reason
    assert "\n" not in outcomes[1].reason


def test_what_did_not_run_is_named_under_its_reason(outcomes: tuple[Outcome, ...]) -> None:
    assert not_run_lines(outcomes) == [
        "NOT RUN (2): tensorrt is not installed",
        "  test_some::test_absent[a]",
        "  test_some::test_absent[b]",
        "NOT RUN (1): no <such> GPU",
        "  test_some::test_elsewhere",
    ]
    assert not_run_lines(outcomes[:2]) == []


def test_the_report_holds_every_test_the_device_and_the_versions(outcomes: tuple[Outcome, ...]) -> None:
    text = report_text(DEVICE, outcomes, DAY)
    assert text.startswith("# What was run on a GPU: NVIDIA A100-SXM4-40GB MIG 1g.5gb, 2026-11-22\n")
    assert "\n1 passed, 2 failed, 3 not run.\n" in text
    assert re.search(r"\npassed  test_some::test_seen  \d+\.\d s\n    memory      30 MB\n    detections  28\n", text)
    assert re.search(r"\nfailed  test_some::test_wrong  \d+\.\d s: .*too much.*\n    memory  60 MB\n", text)
    assert all(text.count(f"{each.name}\n") + text.count(f"{each.name}  ") == 1 for each in outcomes)
    assert re.search(r"\nGPU +NVIDIA A100-SXM4-40GB MIG 1g\.5gb, compute capability 8\.0, 5\.0 GB\n", text)
    assert re.search(r"\ndriver +580\.65\.06\n", text)
    assert re.search(r"\nonnxruntime-gpu +\d", text)
    assert re.search(r"\ncommand +make gpu-test\n```\n$", text)


def test_reports_are_named_for_device_and_day() -> None:
    assert report_path(Path("r"), DEVICE, DAY) == Path("r/gpu_a100-sxm4-40gb-mig-1g-5gb_2026-11-22.md")


def test_without_a_gpu_every_test_is_said_to_be_not_run_and_nothing_is_written() -> None:
    try:
        read_devices()
    except NoGpuError as e:
        reason = str(e)
    else:
        pytest.skip("this machine has a GPU: make gpu-test would run it all")
    before = sorted(gpu_report.REPORTS.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_report"], cwd=PROJECT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"no GPU test ran, and no report was written: {reason}\n")
    named = {line.strip() for line in done.stdout.splitlines() if line.startswith("  test_")}
    tests = {
        found
        for path in gpu_report.TESTS.glob("test_*.py")
        for found in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert {name.partition("::")[2].partition("[")[0] for name in named} == tests
    counts = re.findall(rf"^NOT RUN \((\d+)\): {re.escape(reason)}; \w+", done.stdout, re.MULTILINE)
    assert sum(map(int, counts)) == len(named)
    assert " passed" not in done.stdout
    assert sorted(gpu_report.REPORTS.iterdir()) == before
