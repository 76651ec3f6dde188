"""``python -m clients keepwarm`` without a server; with one: tests/integration/test_coldstart.py."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clients.cli import main
from clients.keepwarm_command import Round, duration_s

ROOT = Path(__file__).parents[3]
NOBODY = "grpc://127.0.0.1:9"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("24h", 86400), ("7d", 604800), ("365d", 31536000), ("0.5", 0.5)],
)
def test_a_time_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0h", "-1h", "h", "24 h", "24H", "1w", "1e3", "nan", "366d", "٢h", "1h30m"])
def test_what_is_no_time_is_refused_with_code_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["keepwarm", "--model", "m", f"--every={text}"])
    assert caught.value.code == 2
    assert "expected a time such as 90s, 15m, 24h or 7d" in capsys.readouterr().err


def test_once_without_a_server_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keepwarm", "--model", "m", "--url", NOBODY, "--once"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert f"error: no server at {NOBODY}" in shown.err


def test_each_server_is_tried_though_the_one_before_it_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    urls = [NOBODY, "http://127.0.0.1:9"]
    assert main(["keepwarm", "--model", "m", "--once", *(part for url in urls for part in ("--url", url))]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(f"error: no server at {url} " in line for url, line in zip(urls, lines, strict=True))


def test_an_address_that_can_never_be_one_ends_it_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keepwarm", "--model", "m", "--url", "127.0.0.1:8001"]) == 1
    assert capsys.readouterr().err.startswith("error: expected grpc://HOST:PORT or http://HOST:PORT")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_whose_exception_is_lost_ends_it_all_the_same(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed = []

    def rewarm(url: str, *_: object, **__: object) -> Round:
        assert not warmed
        warmed.append(url)
        # As in a destructor.
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        return Round(first_ms=1.0, median_ms=1.0)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr("clients.keepwarm_command.rewarm", rewarm)
    with pytest.raises(SystemExit) as caught:
        sys.exit(main(["keepwarm", "--model", "m", "--url", NOBODY, "--url", "grpc://127.0.0.1:10"]))
    assert caught.value.code == code
    assert warmed == [NOBODY]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_goes_on_without_a_server_until_a_signal_ends_it(number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "clients", "keepwarm", "--model", "m", "--url", NOBODY, "--every", "0.1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for _ in range(2):
            assert "error: no server at" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(30) == code
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
