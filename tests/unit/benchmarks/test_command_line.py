"""python -m benchmarks: bad input is one line and a non-zero exit code, and asking for help loads nothing heavy."""

import argparse
import signal
import subprocess
import sys

import pytest

from benchmarks import cli
from benchmarks.cli import main
from benchmarks.reporting import progress


@pytest.mark.parametrize(
    ("repository", "expected"),
    [("missing", "expected a model repository at"), ("empty", "expected at least one NAME/config.pbtxt")],
)
def test_no_repository_is_one_line(tmp_path, capsys, repository, expected):
    (tmp_path / "empty").mkdir()
    assert main(["overhead", "--model", "shapes", "--repository", str(tmp_path / repository)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {expected}")
    assert error.count("\n") == 1


def test_unknown_model_is_one_line_that_names_those_that_are_there(tmp_path, capsys):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "config.pbtxt").touch()
    assert main(["overhead", "--model", "shape", "--repository", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == f"error: expected a model named shape in {tmp_path}, found shapes\n"


def test_a_configuration_that_cannot_be_read_is_one_line_with_its_place(tmp_path, capsys):
    configs = tmp_path / "shapes" / "configs"
    configs.mkdir(parents=True)
    (configs.parent / "config.pbtxt").touch()
    (configs / "cpu.pbtxt").write_text('max_batch_size: "eight"')
    assert main(["overhead", "--model", "shapes", "--repository", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {configs / 'cpu.pbtxt'}: expected a Triton model configuration")
    assert error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--repeats", "--duration-s", "--settle-s"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "many"])
def test_a_number_that_is_none_above_0_is_refused(capsys, flag, value):
    with pytest.raises(SystemExit) as caught:
        main(["overhead", "--model", "shapes", flag, value])
    assert caught.value.code == 2
    assert flag in capsys.readouterr().err


def test_a_json_file_in_no_folder_is_refused_before_anything_is_measured(tmp_path, capsys):
    path = tmp_path / "missing" / "figures.json"
    assert main(["overhead", "--model", "shapes", "--json", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --json {path}: expected the folder")


def test_weights_that_are_no_pt_are_refused(tmp_path, capsys):
    weights = tmp_path / "model.onnx"
    weights.touch()
    assert main(["versus-ultralytics", "--weights", str(weights)]) == 2
    assert "expected a .pt" in capsys.readouterr().err


def test_help_loads_no_heavy_library():
    code = (
        "import sys\n"
        "from benchmarks.cli import parser\n"
        "parser().format_help()\n"
        "heavy = {'torch', 'openvino', 'tritonclient', 'grpc', 'cv2', 'ultralytics', 'onnx'}\n"
        "print(sorted(heavy.intersection(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class Dying:
    """Gets a signal as it is collected, where the interpreter drops whatever is raised."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_the_interpreter_drops_ends_a_benchmark_at_its_next_line(monkeypatch, capsys):
    def run(arguments):
        Dying()
        progress("one turn more")
        return 0

    command = argparse.ArgumentParser()
    command.set_defaults(run=run)
    monkeypatch.setattr(cli, "parser", lambda: command)
    assert main([]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "interrupted; nothing was reported\n"
