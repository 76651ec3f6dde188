"""The models and gateway commands before a server is asked, and switching by the clock when things go wrong."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from clients.detections import Detections
from clients.errors import ClientError, InferenceError, ModelNotReadyError
from clients.gateway import command as gateway_command
from clients.images import ImageSource
from clients.models import command as models_command
from clients.models.arguments import add_schedule, check_model_or_schedule, scheduled_detector
from clients.models.control import ModelControl
from clients.models.schedule import read_schedule
from clients.models.scheduled import ScheduledDetector
from clients.pace import Pace
from clients.selection import EVERYTHING, Selection
from clients.wire.transport import Cancellation
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[4]
HEAVY = "{'graphql', 'aiohttp', 'grpc', 'tritonclient', 'cv2', 'numpy', 'asyncio'}"


def parsed(command: object, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)  # type: ignore[attr-defined]
    return parser.parse_args(arguments)


class TestCommandLine:
    def test_connection_may_stand_before_and_after_the_action(self) -> None:
        for arguments in (
            ("--url", "http://h:1", "--timeout", "5", "--json", "load", "m"),
            ("load", "m", "--url", "http://h:1", "--timeout", "5", "--json"),
            ("--timeout", "5", "load", "--url", "http://h:1", "m", "--json"),
        ):
            found = parsed(models_command, *arguments)
            assert (found.url, found.timeout, found.json, found.name) == ("http://h:1", 5.0, True, "m")
        assert parsed(models_command, "use", "m", "--version", "3").url == models_command.DEFAULT_URL

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("load",), "NAME"),
            (("load", ""), "got an empty one"),
            (("use", "m"), "--version"),
            (("use", "m", "--version", "0"), "expected a version's number from 1, got 0"),
            (("use", "m", "--version", "²"), "got ²"),
            (("list", "m"), "unrecognized arguments: m"),
            (("drop", "m"), "invalid choice: 'drop'"),
            (("--timeout", "0"), "expected seconds above 0, got 0"),
            (("--timeout", "soon"), "expected a number, got soon"),
        ],
    )
    def test_wrong_models_arguments_are_refused(
        self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            parsed(models_command, *arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "--model"),
            (("--model", ""), "expected the name of a model, got an empty one"),
            (("--model", "m", "--port", "65536"), "expected a port from 0 to 65535, got 65536"),
            (("--model", "m", "--workers", "0"), "expected a whole number from 1 to 256, got 0"),
            (("--model", "m", "--max-body-mb", "nan"), "expected a number above 0, got nan"),
            (("--model", "m", "--max-megapixels", "-1"), "expected a number above 0, got -1"),
        ],
    )
    def test_wrong_gateway_arguments_are_refused(
        self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            parsed(gateway_command, *arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err

    def test_adding_arguments_loads_nothing_heavy(self) -> None:
        code = f"""
import argparse, sys
from clients.models import command as models_command
from clients.gateway import command as gateway_command
for command in (models_command, gateway_command):
    command.add_arguments(argparse.ArgumentParser())
print(sorted({HEAVY} & set(sys.modules) - {{'numpy', 'asyncio'}}))
"""
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
        assert result.stdout == "[]\n"

    def test_gateway_without_its_libraries_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ClientError, match="pip install 'yolo-triton"):
            gateway_command.run(parsed(gateway_command, "--model", "m"))


def test_version_below_one_is_refused_before_the_server_is_asked() -> None:
    with ModelControl("grpc://127.0.0.1:9") as control, pytest.raises(ValueError, match="a version from 1, got 0"):
        control.use("m", 0)


class TestScheduleArguments:
    def parsed(self, *arguments: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        parser.add_argument("--model")
        parser.add_argument("--url", default="grpc://127.0.0.1:9")
        parser.add_argument("--timeout", type=float, default=5.0)
        parser.add_argument("--send", default="pixels")
        add_schedule(parser)
        return parser.parse_args(arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "expected --model or --schedule, got neither"),
            (("--model", "m", "--schedule", "a=m"), "got both"),
            (("--model", "m", "--tz", "UTC"), "with --schedule only"),
            (("--model", "m", "--control-url", "grpc://h:1"), "with --schedule only"),
        ],
    )
    def test_model_and_schedule_exclude_each_other(self, arguments: tuple[str, ...], message: str) -> None:
        with pytest.raises(ClientError, match=message):
            check_model_or_schedule(self.parsed(*arguments))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--schedule", "a=m@25:00"), "expected a time from 00:00 to 23:59"),
            (("--schedule", "a=m", "--tz", "Mars/North"), "expected a time zone"),
            (("--schedule", "a=m", "--url", "http://127.0.0.1:9"), "expected control_url, the gRPC address"),
            (("--schedule", "a=m"), "no server at grpc://127.0.0.1:9"),
            (("--schedule", "a=m", "--send", "encoded"), "expected send to be one of 'pixels', 'shared-memory'"),
        ],
    )
    def test_schedule_that_cannot_be_followed_is_one_line(self, arguments: tuple[str, ...], message: str) -> None:
        found = self.parsed(*arguments)
        check_model_or_schedule(found)
        with pytest.raises(ClientError, match=message) as caught:
            scheduled_detector(found)
        assert "\n" not in str(caught.value)


class Server:
    """What models are loaded, and what was done to them."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.done: list[str] = []
        self.refuses: Exception | None = None

    def load(self, model: str) -> None:
        self.done.append(f"load {model}")
        if self.refuses is not None:
            raise self.refuses
        self.loaded.add(model)

    def unload(self, model: str) -> None:
        self.done.append(f"unload {model}")
        self.loaded.discard(model)

    def close(self) -> None:
        self.done.append("close")

    def connect(self, model: str) -> FakeDetector:
        return FakeDetector(self, model)


class FakeDetector:
    """Answers while its model is loaded and it has not been closed."""

    size = (4, 4)
    max_batch_size = 1

    def __init__(self, server: Server, model: str) -> None:
        self.names = (model,)
        self._server = server
        self._is_closed = False

    def detect(
        self,
        image: ImageSource,
        confidence: float = 0.25,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> Detections:
        assert not self._is_closed
        if self.names[0] not in self._server.loaded:
            raise ModelNotReadyError(f"model {self.names[0]!r} is not ready")
        box, sure, first = np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
        return selection.apply(Detections(box, sure, first, self.names))

    def detect_batch(
        self,
        images: Iterable[ImageSource],
        confidence: float = 0.25,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> list[Detections]:
        return [self.detect(image, confidence, selection=selection) for image in images]

    def pace(self, in_flight: int | None = None) -> Pace:
        return Pace(in_flight or 2)

    def detect_one_of_many(
        self,
        image: ImageSource,
        index: int,
        cancellation: Cancellation,
        *,
        pace: Pace,
        confidence: float,
        priority: int,
        selection: Selection,
    ) -> Detections:
        return self.detect(image, confidence, priority=priority, selection=selection)

    def close(self) -> None:
        self._is_closed = True


class Clock:
    def __init__(self) -> None:
        self._looks = 0
        self.set("2026-11-22T12:00")

    def set(self, now: str) -> None:
        self._now = datetime.fromisoformat(now).replace(tzinfo=UTC)
        self._looks_before = self._looks

    def __call__(self) -> datetime:
        self._looks += 1
        return self._now

    def has_been_followed(self) -> bool:
        """Whether what is due at the time that was set has been done, and looked for once again."""
        # Every other look is for what is due, the rest for how long to wait, and one more has to end the second.
        return self._looks >= self._looks_before + 5


IMAGE = np.zeros((4, 4, 3), np.uint8)
DAY_AND_NIGHT = "day=day@06:00,night=night@20:00"


class TestSwitching:
    @pytest.fixture(autouse=True)
    def _often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ticks that a test need not wait for."""
        monkeypatch.setattr("clients.models.scheduled.TICK_S", 0.02)
        # Nothing is loaded that takes its time: whoever closes may wait for the thread to get a core.
        monkeypatch.setattr("clients.models.scheduled.CLOSE_S", 60)

    def detector(
        self, server: Server, clock: Clock, text: str = DAY_AND_NIGHT, unload_after_s: float = 0
    ) -> ScheduledDetector:
        schedule = read_schedule(text, ZoneInfo("UTC"))
        return ScheduledDetector(schedule, server.connect, server, unload_after_s=unload_after_s, clock=clock)

    def test_models_are_loaded_once_and_in_order(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock) as detector:
            clock.set("2026-11-22T19:59")
            assert eventually(lambda: "load night" in server.done)
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: "unload day" in server.done)
            assert detector.detect(IMAGE).names == ("night",)
        assert server.done == ["load day", "load night", "unload day", "close"]
        assert server.loaded == {"night"}

    def test_many_images_go_to_the_model_that_is_in_use_when_each_is_sent(self) -> None:
        server, clock = Server(), Clock()
        with (
            self.detector(server, clock) as detector,
            detector.detect_many((IMAGE for _ in range(1000)), in_flight=1) as results,
        ):
            assert next(results).names == ("day",)
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: detector.model == "night")
            later = [next(results).names for _ in range(10)]
        assert later[-1] == ("night",)

    def test_selection_is_that_of_the_model_in_use(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock) as detector:
            assert len(detector.detect(IMAGE, selection=Selection(maximum=0))) == 0
            assert len(detector.detect_batch([IMAGE], selection=Selection(classes=("day",)))[0]) == 1
            with pytest.raises(ValueError, match="no class 'night'"):
                detector.detect(IMAGE, selection=Selection(classes=("night",)))

    def test_model_of_two_entries_stays_loaded(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock, "a=day@06:00,b=day@13:00") as detector:
            clock.set("2026-11-22T13:00")
            assert eventually(clock.has_been_followed)
            assert detector.detect(IMAGE).names == ("day",)
        assert server.done == ["load day", "close"]

    def test_close_unloads_a_model_that_was_replaced_twice(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock, unload_after_s=7 * 86400) as detector:
            for moment, model in (("22T20:00", "night"), ("23T06:00", "day"), ("23T20:00", "night")):
                clock.set(f"2026-11-{moment}")
                assert eventually(lambda model=model: detector.model == model)  # type: ignore[misc]
        assert server.done == ["load day", "load night", "load day", "load night", "unload day", "close"]
        assert server.loaded == {"night"}

    def test_prepared_model_is_unloaded_when_the_clock_is_set_back(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock) as detector:
            clock.set("2026-11-22T19:59")
            assert eventually(lambda: "load night" in server.done)
            clock.set("2026-11-22T12:00")
            assert eventually(lambda: "unload night" in server.done)
            assert detector.detect(IMAGE).names == ("day",)
        assert server.loaded == {"day"}

    def test_prepared_model_that_is_lost_before_its_switch_costs_no_frame(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock) as detector:
            clock.set("2026-11-22T19:59")
            assert eventually(lambda: detector._next is not None)
            server.loaded.discard("night")
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: detector.detect(IMAGE).names == ("night",))
        assert server.done[:3] == ["load day", "load night", "load night"]

    def test_lost_model_is_loaded_again(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock) as detector:
            server.loaded.clear()
            with pytest.raises(ModelNotReadyError):
                detector.detect(IMAGE)
            assert eventually(lambda: server.loaded == {"day"})
            assert eventually(lambda: detector.problem is None)
            assert detector.detect(IMAGE).names == ("day",)
        assert "unload day" not in server.done

    def test_lost_model_is_not_replaced_by_the_one_that_is_prepared_for_later(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock) as detector:
            clock.set("2026-11-22T19:59")
            assert eventually(lambda: detector._next is not None)
            server.loaded.discard("day")
            with pytest.raises(ModelNotReadyError):
                detector.detect(IMAGE)
            assert eventually(lambda: "day" in server.loaded)
            assert eventually(lambda: not detector._is_lost)
            assert detector.detect(IMAGE).names == ("day",)
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: detector.model == "night")
        assert server.done[:3] == ["load day", "load night", "load day"]

    def test_failure_that_nobody_expected_does_not_end_the_schedule(self, caplog: pytest.LogCaptureFixture) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock) as detector:
            server.refuses = ZeroDivisionError("surprise")
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: "surprise" in caplog.text)
            assert detector.detect(IMAGE).names == ("day",)
            server.refuses = None
            assert eventually(lambda: detector.detect(IMAGE).names == ("night",))

    def test_attempts_become_rare_and_end_with_success(self) -> None:
        server, clock = Server(), Clock()
        with self.detector(server, clock) as detector:
            server.refuses = InferenceError("no memory")
            clock.set("2026-11-22T20:00:00")
            assert eventually(clock.has_been_followed)
            assert server.done.count("load night") == 1
            clock.set("2026-11-22T20:00:01")
            assert eventually(lambda: server.done.count("load night") == 2)
            clock.set("2026-11-22T20:00:02")
            assert eventually(clock.has_been_followed)
            assert server.done.count("load night") == 2
            assert "no memory" in str(detector.problem)
            server.refuses = None
            clock.set("2026-11-22T21:00")
            assert eventually(lambda: detector.model == "night")

    def test_many_threads_and_many_switches_never_meet_a_closed_detector(self) -> None:
        server, clock = Server(), Clock()
        stop = threading.Event()
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                while not stop.is_set():
                    detector.detect(IMAGE)
            except BaseException as error:
                failures.append(error)

        with self.detector(server, clock) as detector:
            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for day in range(10):
                for hour, model in (("20:00", "night"), ("06:00", "day")):
                    clock.set(f"2026-12-{10 + day + (model == 'day')}T{hour}")
                    assert eventually(lambda model=model: detector.model == model)  # type: ignore[misc]
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []

    @pytest.mark.parametrize("wrong", [{"prepare_s": -1}, {"prepare_s": float("nan")}, {"unload_after_s": -1}])
    def test_times_below_zero_are_refused(self, wrong: dict[str, float]) -> None:
        server = Server()
        with pytest.raises(ValueError, match="in seconds from 0"):
            ScheduledDetector(read_schedule("a=day"), server.connect, server, **wrong)  # type: ignore[arg-type]
        assert server.done == []
