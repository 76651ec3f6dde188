"""``python -m builder memory``: the table, its JSON, its exit codes, and the stages that it leaves to a build."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from builder import memory_command
from builder.errors import SpecError, WeightsError
from builder.spec import BuildSpec
from builder.stages import Stages

SAMPLE = Path(__file__).parents[3] / "examples" / "shapes" / "shapes.pt"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(cache):
    def call(*flags):
        parser = argparse.ArgumentParser()
        memory_command.add_arguments(parser)
        given = ["--weights", str(SAMPLE), "--precision", "fp32", "--imgsz", "64", "--cache", str(cache), *flags]
        return memory_command.run(parser.parse_args(given))

    return call


def rows(out):
    """The table's cells by the row's name."""
    lines = out.split("\n\n")[1].splitlines()
    return {name: cells for name, *cells in (re.split(r"\s{2,}", line) for line in lines)}


def test_each_gpu_has_a_column(run, capsys):
    assert run("--gpu", "t4", "--gpu", "l4", "--gpu", "T4") == 0
    out = capsys.readouterr().out
    table = rows(out)
    assert table[""] == ["t4", "l4"]
    assert table["of the GPU's, MB"] == ["16,000.0", "24,000.0"]
    parts = ("weights, MB", "inputs, MB", "outputs, MB", "activations, MB", "workspace at most, MB")
    summed = sum(float(table[part][0].replace(",", "")) for part in parts)
    assert float(table["one instance, MB"][0].replace(",", "")) == pytest.approx(summed, abs=0.3)
    assert "with 30% of the memory and of the time kept free" in out
    assert "estimates" in out


def test_json_holds_the_same_figures_and_stages_are_told_of_on_stderr(run, capsys):
    assert run("--gpu", "l4", "--batch", "4", "--instances", "3", "--fps", "25", "--json") == 0
    out, error = capsys.readouterr()
    told = json.loads(out)
    assert (told["fps"], told["measured"]) == (25, False)
    l4 = told["gpus"]["l4"]
    assert (l4["budget"]["batch"], l4["budget"]["instances"]) == (4, 3)
    assert l4["budget"]["total_bytes"] == 3 * l4["budget"]["instance_bytes"]
    assert l4["streams_by_memory"] > 0
    # The sample is built in FP32 here, of whose speed nothing is said.
    assert l4["streams"] is None
    assert "export" in error
    assert "head" in error


def test_streams_are_bound_by_the_lesser_of_memory_and_time(run, capsys):
    assert run("--gpu", "t4", "--precision", "fp16", "--json") == 0
    t4 = json.loads(capsys.readouterr().out)["gpus"]["t4"]
    assert t4["streams"] == min(t4["streams_by_memory"], t4["streams_by_time"])
    assert t4["bound_by"] == ("time" if t4["streams_by_time"] < t4["streams_by_memory"] else "memory")
    assert t4["streams_by_time"] == int(0.7 * t4["images_per_s"] / 10)


def test_more_frames_a_second_are_fewer_streams(run, capsys):
    found = []
    for fps in ("5", "50"):
        run("--precision", "fp16", "--fps", fps, "--json")
        found.append(json.loads(capsys.readouterr().out)["gpus"]["t4"]["streams_by_time"])
    assert found[0] == pytest.approx(10 * found[1], abs=10)


def test_what_cannot_fit_is_exit_code_1_and_says_what_would(run, capsys):
    flags = ("--gpu", "t4", "--gpu", "a100-40gb:1g.5gb", "--imgsz", "640", "--batch", "256", "--instances", "2")
    assert run(*flags) == 1
    out, error = capsys.readouterr()
    assert rows(out)["instances that fit"][1] == "0"
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: a100-40gb-1g.5gb: expected at most 5 GB")
    assert "--max-batch" in line


def test_a_build_goes_on_from_the_same_stages(run, cache):
    assert run() == 0
    asked = {"weights": SAMPLE, "precision": "fp32", "imgsz": 64, "cache": cache}
    stages = Stages(spec=BuildSpec.from_sources(asked, None), weights=SAMPLE, report=lambda _: None)
    stages.served(stages.network())
    assert [(stage.name, stage.reused) for stage in stages.done] == [("export", True), ("head", True)]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--gpu", "t5"), "unknown GPU 't5'"),
        (("--batch", "0"), "--max-batch: .* it was 0"),
        (("--instances", "0"), "--instances: .* it was 0"),
        (("--imgsz", "63"), "imgsz"),
        (("--precision", "fp8"), "--precision: .*'fp8'"),
        (("--precision", "int8"), "expected fp32 or fp16"),
    ],
)
def test_a_wrong_request_is_an_error_that_names_the_flag(run, flags, expected):
    with pytest.raises(SpecError, match=expected):
        run(*flags)


def test_missing_weights_are_an_error(run, tmp_path):
    with pytest.raises(WeightsError, match="nowhere"):
        run("--weights", str(tmp_path / "nowhere.pt"))


@pytest.mark.parametrize("fps", ["0", "-1", "nan", "many"])
def test_a_frame_rate_that_is_none_is_refused(run, capsys, fps):
    with pytest.raises(SystemExit) as caught:
        run("--fps", fps)
    assert caught.value.code == 2
    assert "--fps" in capsys.readouterr().err


def test_its_flags_load_no_heavy_library():
    code = (
        "import argparse, sys\n"
        "from builder import memory_command\n"
        "memory_command.add_arguments(argparse.ArgumentParser())\n"
        "heavy = {'torch', 'onnx', 'numpy', 'pydantic', 'yaml', 'ultralytics'}\n"
        "print(sorted(heavy.intersection(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
