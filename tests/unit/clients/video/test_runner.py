"""Many streams at once over a detector that answers when it is let."""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from clients.detections import Detections
from clients.errors import ClientError, InferenceError, ServerUnavailableError
from clients.video.reader import ReadOptions
from clients.video.runner import Result, RunOptions, StreamRunner
from clients.video.sources import sources_from
from tests.videos import NumberDetector, numbered_video
from tests.waiting import eventually

FAST = ReadOptions(drops_nothing=True)


class Kept:
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.is_closed = False

    def write(self, result: Result) -> None:
        self.results.append(result)

    def close(self) -> None:
        self.is_closed = True

    def numbers(self, source: str) -> list[int]:
        """The numbers that the detector found in a source's frames, in the order in which they were written."""
        return [
            int(result.detections.xyxy[0, 0])
            for result in self.results
            if result.source.name == source and result.detections
        ]


def run(
    places: Sequence[object],
    detector: NumberDetector,
    *,
    reading: ReadOptions = FAST,
    in_flight: int = 4,
    priorities: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> tuple[StreamRunner, Kept]:
    kept = Kept()
    options = RunOptions(reading=reading, in_flight=in_flight, confidence=0.25)
    runner = StreamRunner(sources_from([str(p) for p in places], priorities), detector, options, [kept], say)
    runner.start()
    assert runner.wait(60)
    runner.close()
    return runner, kept


def test_results_of_each_source_come_in_order_however_long_each_takes(tmp_path: Path) -> None:
    videos = [numbered_video(tmp_path / f"{name}.mp4", 80) for name in "abc"]
    dice = random.Random(1)
    detector = NumberDetector(lambda number: time.sleep(dice.random() * 0.01))
    runner, kept = run(videos, detector, in_flight=7)
    for name in "abc":
        assert kept.numbers(f"{name}.mp4") == list(range(80))
    assert [(v.captured, v.answered, v.dropped, v.failed) for v in runner.views()] == [(80, 80, 0, 0)] * 3
    assert kept.is_closed


def test_one_slow_answer_holds_up_a_bounded_number_of_others(tmp_path: Path) -> None:
    asked_meanwhile: list[int] = []

    def before(number: int) -> None:
        if number == 0:
            assert eventually(lambda: len(detector.asked) >= 4)
            # Three are answered and held for the first: a fifth would come now.
            time.sleep(0.2)
            asked_meanwhile.extend(number for number, _ in detector.asked)

    detector = NumberDetector(before)
    _, kept = run([numbered_video(tmp_path / "v.mp4", 30)], detector, in_flight=4)
    assert sorted(asked_meanwhile) == [0, 1, 2, 3]
    assert kept.numbers("v.mp4") == list(range(30))


def test_a_detector_that_stands_still_costs_frames_and_what_is_sent_then_is_the_newest(tmp_path: Path) -> None:
    is_read = threading.Event()

    def before(number: int) -> None:
        # Whichever comes first: on a loaded machine a later frame may have taken the place of number 0.
        assert is_read.wait(30)

    detector = NumberDetector(before)
    kept = Kept()
    sources = sources_from([str(numbered_video(tmp_path / "v.mp4", 50, fps=50))])
    options = RunOptions(reading=ReadOptions(), in_flight=1, confidence=0.25)
    runner = StreamRunner(sources, detector, options, [kept])
    runner.start()
    while runner.views()[0].captured < 50:
        assert not runner.wait(0.05)
    is_read.set()
    assert runner.wait(30)
    runner.close()
    assert len(kept.results) == 2
    assert kept.numbers("v.mp4")[-1] == 49
    view = runner.views()[0]
    assert (view.captured, view.answered, view.dropped, view.failed) == (50, 2, 48, 0)


def test_failed_frames_are_counted_and_said_once(tmp_path: Path) -> None:
    def before(number: int) -> None:
        if 10 <= number < 20:
            raise InferenceError("the model is out of paint")

    said: list[str] = []
    runner, kept = run([numbered_video(tmp_path / "v.mp4", 30)], NumberDetector(before), in_flight=1, say=said.append)
    view = runner.views()[0]
    assert (view.captured, view.answered, view.failed) == (30, 20, 10)
    assert said == ["server: the model is out of paint", "server: answers again"]
    assert [result.frame.number for result in kept.results] == list(range(30))
    assert [str(result.error) for result in kept.results if result.error] == ["the model is out of paint"] * 10


def test_a_trouble_that_comes_and_goes_is_not_said_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.video.runner.SAY_EVERY_S", math.inf)

    def before(number: int) -> None:
        if number % 3 == 0:
            raise InferenceError("the queue is full")

    said: list[str] = []
    runner, _ = run([numbered_video(tmp_path / "v.mp4", 60)], NumberDetector(before), in_flight=1, say=said.append)
    assert runner.views()[0].failed == 20
    assert said == ["server: the queue is full", "server: answers again"]


def test_frames_that_may_not_be_dropped_wait_for_a_server_that_is_gone(tmp_path: Path) -> None:
    refusals = 3

    def before(number: int) -> None:
        nonlocal refusals
        if number == 5 and refusals:
            refusals -= 1
            raise ServerUnavailableError("no server")

    said: list[str] = []
    runner, kept = run([numbered_video(tmp_path / "v.mp4", 10)], NumberDetector(before), in_flight=1, say=said.append)
    assert kept.numbers("v.mp4") == list(range(10))
    assert runner.views()[0].failed == 0
    assert said == ["server: no server", "server: answers again"]


def test_a_picture_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    numbered_video(folder / "b.mp4", 3)
    said: list[str] = []
    runner, kept = run([folder], NumberDetector(), say=said.append)
    assert (runner.views()[0].answered, runner.views()[0].failed) == (3, 1)
    assert len(said) == 1
    assert said[0].startswith("folder: ")
    assert kept.results[0].pixels is None
    assert [status.broken for status in runner.statuses()] == [[said[0].removeprefix("folder: ")]]


def test_stopping_drops_what_waits_and_answers_what_is_in_flight(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def before(number: int) -> None:
        if number == 10:
            asked.set()
            assert go_on.wait(30)

    kept = Kept()
    sources = sources_from([str(numbered_video(tmp_path / "v.mp4", 100))])
    options = RunOptions(reading=FAST, in_flight=1, confidence=0.25)
    runner = StreamRunner(sources, NumberDetector(before), options, [kept])
    runner.start()
    assert asked.wait(30)
    runner.stop()
    go_on.set()
    assert runner.wait(30)
    runner.close()
    assert kept.numbers("v.mp4") == list(range(11))
    view = runner.views()[0]
    assert view.captured == view.answered + view.dropped
    assert view.dropped <= 1


@pytest.mark.parametrize("error", [ClientError("disk full"), BrokenPipeError(32, "Broken pipe"), ZeroDivisionError()])
def test_an_output_that_fails_ends_the_run_with_its_error(tmp_path: Path, error: Exception) -> None:
    class Failing(Kept):
        def write(self, result: Result) -> None:
            super().write(result)
            if len(self.results) == 5:
                raise error

    failing = Failing()
    sources = sources_from([str(numbered_video(tmp_path / "v.mp4", 500))])
    options = RunOptions(reading=FAST, in_flight=2, confidence=0.25)
    runner = StreamRunner(sources, NumberDetector(), options, [failing])
    runner.start()
    assert runner.wait(30)
    with pytest.raises(type(error)):
        runner.close()
    assert len(failing.results) == 5
    assert failing.is_closed
    assert runner.views()[0].pending == 0


def test_a_fault_of_the_detector_ends_the_run_and_is_not_hidden(tmp_path: Path) -> None:
    def before(number: int) -> None:
        if number == 3:
            raise ZeroDivisionError

    sources = sources_from([str(numbered_video(tmp_path / "v.mp4", 50))])
    options = RunOptions(reading=FAST, in_flight=2, confidence=0.25)
    runner = StreamRunner(sources, NumberDetector(before), options)
    runner.start()
    assert runner.wait(30)
    with pytest.raises(ZeroDivisionError):
        runner.close()
    assert runner.views()[0].pending == 0


def test_priorities_reach_the_detector_and_go_first(tmp_path: Path) -> None:
    videos = [numbered_video(tmp_path / f"{n}.mp4", 20, first=100 * n) for n in range(3)]
    detector = NumberDetector()
    run(videos, detector, in_flight=1, priorities=["1.mp4=1", "2.mp4=2"])
    assert {(number // 100, priority) for number, priority in detector.asked} == {(0, 0), (1, 1), (2, 2)}


def test_a_tracker_of_its_own_follows_each_source_in_order(tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.seen: list[float] = []

        def update(self, detections: Detections, time_s: float) -> tuple[int | None, ...]:
            self.seen.append(time_s)
            return (len(self.seen),)

    kept = Kept()
    sources = sources_from([str(numbered_video(tmp_path / f"{name}.mp4", 20)) for name in "ab"])
    options = RunOptions(reading=FAST, in_flight=4, confidence=0.25, tracker=Counter)
    runner = StreamRunner(sources, NumberDetector(), options, [kept])
    runner.start()
    assert runner.wait(30)
    runner.close()
    for name in ("a.mp4", "b.mp4"):
        ids = [result.track_ids for result in kept.results if result.source.name == name]
        assert ids == [(number,) for number in range(1, 21)]


def test_an_output_that_takes_its_time_is_part_of_the_run(tmp_path: Path) -> None:
    class Slow(Kept):
        def write(self, result: Result) -> None:
            time.sleep(0.02)
            super().write(result)

    slow = Slow()
    options = RunOptions(reading=FAST, in_flight=2, confidence=0.25)
    sources = sources_from([str(numbered_video(tmp_path / "v.mp4", 20))])
    runner = StreamRunner(sources, NumberDetector(), options, [slow])
    runner.start()
    assert runner.wait(30)
    runner.close()
    assert len(slow.results) == 20
    assert runner.seconds >= 20 * 0.02


def test_outputs_are_whole_before_a_camera_that_says_nothing_is_waited_for(tmp_path: Path) -> None:
    class Watching(Kept):
        def close(self) -> None:
            self.is_watched = any(thread.name == "read silent" for thread in threading.enumerate())
            connection.close()

    watching = Watching()
    options = RunOptions(reading=FAST, in_flight=1, confidence=0.25)
    with socket.create_server(("127.0.0.1", 0)) as camera:
        sources = sources_from([f"silent=http://127.0.0.1:{camera.getsockname()[1]}/"])
        runner = StreamRunner(sources, NumberDetector(), options, [watching])
        runner.start()
        connection, _ = camera.accept()
        runner.stop()
        assert runner.wait(30)
        runner.close()
    assert watching.is_watched


def test_a_run_without_an_answer_took_its_time_too(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video")
    runner, _ = run([tmp_path / "v.mp4"], NumberDetector())
    assert runner.seconds > 0
