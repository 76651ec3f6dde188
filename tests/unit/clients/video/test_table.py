"""What is shown of a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from clients.video.reader import ReadOptions
from clients.video.runner import RunOptions, StreamRunner
from clients.video.sources import sources_from
from clients.video.table import LiveTable, PlainLines, display_on, summary
from tests.videos import NumberDetector, numbered_video


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def runner(tmp_path: Path) -> StreamRunner:
    """A video of 20 frames, and a file that is none, run to their end."""
    (tmp_path / "b.mp4").write_bytes(b"no video")
    texts = [f"front.door={numbered_video(tmp_path / 'a.mp4', 20)}", str(tmp_path / "b.mp4")]
    options = RunOptions(reading=ReadOptions(drops_nothing=True), in_flight=2, confidence=0.25)
    runner = StreamRunner(sources_from(texts), NumberDetector(), options)
    runner.start()
    assert runner.wait(30)
    runner.close()
    return runner


def test_the_summary_accounts_for_every_frame(runner: StreamRunner) -> None:
    lines = summary(runner).splitlines()
    assert lines[0].split()[:6] == ["source", "state", "captured", "answered", "dropped", "failed"]
    assert lines[1].split()[:7] == ["front.door", "opened", "1x", "20", "20", "0", "0"]
    assert lines[2].split() == ["b.mp4", "broken", "0", "0", "0", "0", "0.0", "-", "-", "-"]
    assert lines[3].split()[:5] == ["total", "20", "20", "0", "0"]
    assert lines[4].startswith("20 captured = 20 answered + 0 dropped + 0 failed in ")


def test_a_terminal_gets_a_table_that_goes_away(runner: StreamRunner) -> None:
    terminal = Terminal()
    display = display_on(terminal)
    assert isinstance(display, LiveTable)
    with display:
        display.say("[bold]front.door: lost")
        display.show(runner)
        text = terminal.getvalue()
    assert "[bold]front.door: lost" in text
    lines = [line.split() for line in text.splitlines()]
    # In 80 columns names may be cut off, numbers never.
    (total,) = [line for line in lines if line[:1] == ["total"]]
    assert total[1:5] == ["20", "20", "0", "0"]
    assert any(line and line[0].startswith("front") and line[2:4] == ["20", "20"] for line in lines)


def test_a_file_gets_plain_lines_now_and_then(runner: StreamRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    display = display_on(stream)
    assert isinstance(display, PlainLines)
    with display:
        display.say("front.door: back")
        display.show(runner)
        assert stream.getvalue() == "front.door: back\n"
        monkeypatch.setattr("clients.video.table.PLAIN_EVERY_S", 0.0)
        display.show(runner)
    line = stream.getvalue().splitlines()[1]
    assert line.startswith("state 0 of 2 playing, captured 20, answered 20, dropped 0, failed 0, FPS ")
