"""What ``python -m builder doctor`` prints and how it exits."""

import argparse
import json
import subprocess
import sys

import pytest

from builder.doctor import command as doctor_command
from builder.errors import RepositoryError, SpecError
from builder.nvml import NoGpuError, read_devices
from tests.plans import plan_with_filler
from tests.published import publish_shapes


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    publish_shapes(folder / "repository", folder, plans=("t4", "l4"))
    return folder / "repository"


@pytest.fixture
def broken(tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    version = publish_shapes(folder / "repository", folder, plans=("t4", "l4"))
    (version / "labels.txt").unlink()
    (version / "model_sm75.plan").write_bytes(plan_with_filler(seed=5))
    return folder / "repository"


@pytest.fixture
def doctor(capsys):
    """``doctor(repository, *flags)``: the exit code, and the lines on stdout."""

    def run(repository, *flags):
        parser = argparse.ArgumentParser()
        doctor_command.add_arguments(parser)
        code = doctor_command.run(parser.parse_args(["--repository", str(repository), *flags]))
        return code, capsys.readouterr().out.splitlines()

    return run


def test_a_good_repository_is_one_line(doctor, repository):
    code, lines = doctor(repository, "--driver", "580.95.05")
    assert (code, lines) == (0, ["ok: 1 model, 4 configurations, 2 plans"])


def test_a_good_repository_is_one_line_that_names_the_release(doctor, repository):
    flags = ("--triton", "25.10", "--gpu", "t4", "--gpu", "l4", "--driver", "580.95.05")
    code, lines = doctor(repository, *flags)
    assert (code, lines) == (0, ["ok: 1 model, 4 configurations, 2 plans for Triton 25.10"])


def test_each_finding_is_what_where_and_the_fix(doctor, broken):
    code, lines = doctor(broken, "--driver", "580.95.05")
    assert code == 1
    assert lines == [
        "fails to load: shapes/1/labels.txt: missing; config.pbtxt names it for the labels of output detections",
        "    fix: put it there, a label a line, or take label_filename out",
        *lines[2:4],
        "not checked: shapes/1/model_sm75.plan: no manifest describes this content, its batches are not compared",
        "1 would fail to load, 1 warning: 1 model, 4 configurations, 2 plans",
    ]
    assert lines[2].startswith("warning: shapes/1/model_sm75.plan: expected sha256")
    assert lines[3].startswith("    fix: ")


def test_a_warning_alone_exits_with_zero(doctor, broken):
    (broken / "shapes" / "1" / "labels.txt").write_text("circle\nsquare\n")
    code, lines = doctor(broken, "--driver", "580.95.05")
    assert code == 0
    assert lines[-1] == "0 would fail to load, 1 warning: 1 model, 4 configurations, 2 plans"


def test_what_could_not_be_checked_is_said_before_the_last_line(doctor, repository):
    code, lines = doctor(repository, "--triton", "25.08", "--driver", "580.95.05")
    assert code == 0
    assert lines == [
        "not checked: which TensorRT Triton 25.08 holds is not confirmed: plans are not compared with it",
        "ok: 1 model, 4 configurations, 2 plans for Triton 25.08",
    ]


def test_json_holds_the_same(doctor, broken):
    code, lines = doctor(broken, "--json", "--triton", "26.09", "--gpu", "t4", "--driver", "550.54.15")
    report = json.loads("\n".join(lines))
    assert code == 1
    assert report["loads"] is False
    checks = [(each["severity"], each["check"]) for each in report["findings"]]
    assert ("fails to load", "plan-version") in checks
    assert ("fails to load", "driver") in checks
    assert all({"severity", "check", "where", "what", "fix"} == set(each) for each in report["findings"])
    assert (report["models"], report["configs"], report["plans"]) == (1, 4, 2)


def test_the_driver_is_this_machines_where_there_is_one(doctor, repository):
    try:
        found = read_devices()[0].driver_version
    except NoGpuError:
        found = None
    _, lines = doctor(repository)
    assert any("no driver is compared" in line for line in lines) is (found is None)


def test_a_gpu_that_tensorrt_no_longer_supports_is_a_finding(doctor, repository):
    code, lines = doctor(repository, "--gpu", "jetson-agx-xavier", "--triton", "26.09")
    assert code == 1
    assert any(line.startswith("fails to load: GPU jetson-agx-xavier: compute capability 7.2") for line in lines)


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--triton", "26.9"), "unknown Triton release"),
        (("--gpu", "t5"), "unknown GPU 't5'"),
        (("--driver", "new"), "expected a version such as 580.65.06, got 'new'"),
    ],
)
def test_a_wrong_request_is_one_error(doctor, repository, flags, what):
    with pytest.raises(SpecError, match=what):
        doctor(repository, *flags)


def test_a_missing_repository_is_one_error(doctor, tmp_path):
    with pytest.raises(RepositoryError, match=r"expected a model repository at .*, found nothing"):
        doctor(tmp_path / "gone")


def test_the_flags_import_nothing_heavy():
    code = (
        "import argparse, sys; from builder.doctor import command as doctor_command; "
        "doctor_command.add_arguments(argparse.ArgumentParser()); "
        "print(sorted({'onnx', 'numpy', 'tritonclient', 'google', 'yaml', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
