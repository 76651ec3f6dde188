"""The command line without a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clients.cli import main

ROOT = Path(__file__).parents[3]
HEAVY = "{'torch', 'ultralytics', 'onnx', 'onnxruntime', 'openvino', 'supervision', 'grpc', 'tritonclient', 'scipy'}"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_import_loads_nothing_heavy() -> None:
    assert python(f"import sys, clients; print(sorted({HEAVY} & set(sys.modules)))") == "[]\n"


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import contextlib, io, sys
from clients.cli import main
for arguments in (["--help"], ["detect", "--help"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
print(sorted({HEAVY} & set(sys.modules)))
"""
    assert python(code) == "[]\n"


def test_clients_do_not_import_the_builder() -> None:
    code = """
import pkgutil, sys, clients
for module in pkgutil.iter_modules(clients.__path__):
    if module.name != "__main__":
        __import__(f"clients.{module.name}")
print(sorted(name for name in sys.modules if name.split(".")[0] in {"builder", "benchmarks", "torch"}))
"""
    assert python(code) == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["detect", "a.jpg"], "required: --model"),
        (["detect", "--model", "m"], "required: IMAGE"),
        (["detect", "a.jpg", "--model", "m", "--confidence", "1.5"], "expected a number from 0 to 1, got 1.5"),
        (["detect", "a.jpg", "--model", "m", "--confidence", "-0.1"], "expected a number from 0 to 1, got -0.1"),
        (["detect", "a.jpg", "--model", "m", "--confidence", "nan"], "expected a number from 0 to 1, got nan"),
        (["detect", "a.jpg", "--model", "m", "--confidence", "high"], "expected a number, got high"),
        (["detect", "a.jpg", "--model", "m", "--timeout", "0"], "expected seconds above 0, got 0"),
        (["detect", "a.jpg", "--model", "m", "--timeout", "inf"], "expected seconds above 0, got inf"),
    ],
)
def test_wrong_arguments_end_with_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("grpc://127.0.0.1:9", "error: no server at grpc://127.0.0.1:9 (Connection refused): start one with"),
        ("http://127.0.0.1:9", "error: no server at http://127.0.0.1:9 (Connection refused): start one with"),
        ("127.0.0.1:8001", "error: expected grpc://HOST:PORT or http://HOST:PORT, got '127.0.0.1:8001'"),
    ],
)
def test_without_a_server_there_is_one_line(url: str, message: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "clients", "detect", "a.jpg", "--model", "shapes", "--url", url],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(message)
    if "start one with" in message:
        # Who uses the library gives a url, who uses the command line gives --url.
        assert result.stderr.endswith("give the address of one that runs (url, --url)\n")
    assert result.stderr.count("\n") == 1


def test_empty_model_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["detect", "a.jpg", "--model", ""])
    assert caught.value.code == 2
    assert "expected the name of a model" in capsys.readouterr().err
