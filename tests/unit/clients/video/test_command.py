"""``python -m clients stream`` without a server."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clients.cli import main
from clients.errors import ClientError, ServerUnavailableError
from clients.video import command as stream_command
from clients.video.runner import Result
from tests.videos import NumberDetector, numbered_video

ROOT = Path(__file__).parents[4]
HEAVY = "{'av', 'cv2', 'numpy', 'rich', 'prometheus_client', 'supervision', 'grpc', 'tritonclient', 'trackers'}"


def parsed(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    stream_command.add_arguments(parser)
    return parser.parse_args([*map(str, arguments), "--model", "shapes"])


def test_its_arguments_load_nothing_heavy() -> None:
    code = f"""
import argparse, sys
from clients.video import command as stream_command
heavy = {HEAVY} & set(sys.modules)
stream_command.add_arguments(argparse.ArgumentParser())
print(sorted(({HEAVY} & set(sys.modules)) - heavy))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: SOURCE"),
        (["a.mp4", "--fps", "0"], "expected a number above 0, got 0"),
        (["a.mp4", "--fps", "nan"], "expected a number above 0, got nan"),
        (["a.mp4", "--duration", "soon"], "expected a number, got soon"),
        (["a.mp4", "--confidence", "2"], "expected a number from 0 to 1, got 2"),
        (["a.mp4", "--in-flight", "0"], "expected a whole number from 1 to 256, got 0"),
        (["a.mp4", "--metrics-port", "65536"], "expected a port from 0 to 65535, got 65536"),
    ],
)
def test_wrong_arguments_end_with_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_source_that_is_not_there_is_named_before_anything_is_connected() -> None:
    with pytest.raises(ClientError, match=r"no file or folder gone\.mp4"):
        stream_command.run(parsed("gone.mp4"))


def test_without_a_server_nothing_is_read(tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "v.mp4", 3)
    with pytest.raises(ServerUnavailableError, match="no server at"):
        stream_command.run(parsed(video, "--url", "grpc://127.0.0.1:9", "--save", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_signal_after_the_last_answer_leaves_the_outputs_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Served(NumberDetector):
        max_batch_size = 1

        def close(self) -> None:
            signal.raise_signal(signal.SIGINT)

    class Output:
        is_whole = False

        def write(self, result: Result) -> None:
            assert result.detections

        def close(self) -> None:
            signal.raise_signal(signal.SIGINT)
            self.is_whole = True

    output, before = Output(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(stream_command, "_detector", lambda arguments: contextlib.closing(Served()))
    monkeypatch.setattr(stream_command, "_outputs", lambda arguments, sources: [output])
    assert main(["stream", str(numbered_video(tmp_path / "v.mp4", 3)), "--model", "shapes"]) == 0
    assert output.is_whole
    assert signal.getsignal(signal.SIGINT) is before


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = numbered_video(tmp_path / "v.mp4", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ClientError, match=r"pip install 'yolo-triton\[video\]'"):
        stream_command.run(parsed(video))


def test_a_schedules_words_are_among_the_runs_lines_while_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    log, said = logging.getLogger("clients.models.scheduled"), list[str]()
    with stream_command._said_by_the_schedule(said.append):
        log.info("model %r is in use, in place of %r", "night", "day")
    log.warning("over")
    assert said == ["schedule: model 'night' is in use, in place of 'day'"]
