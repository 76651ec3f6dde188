"""Models that change, and the gateway, on a real tritonserver with stand-ins that tell who answered."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cv2
import numpy as np
import pytest

from builder.server import ServerOptions, TritonServer
from clients import ClientError, Detector, ModelNotFoundError, ModelNotReadyError
from clients.errors import DeadlineExceededError, OptionsError, ServerUnavailableError
from clients.models.control import ControlModeError, ModelControl
from clients.models.schedule import read_schedule
from clients.models.scheduled import ScheduledDetector
from tests.conftest import FreePorts, StartServer
from tests.waiting import eventually

IMAGE = np.zeros((48, 64, 3), np.uint8)
ROOT = Path(__file__).resolve().parents[2]

STAND_IN = '''
"""Finds in any picture one object of the class of its own version's number; loads once "closed" is not there."""

import json
import pathlib
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = int(args["model_version"])
        parameters = json.loads(args["model_config"])["parameters"]
        time.sleep(float(parameters["load_s"]["string_value"]))
        while pathlib.Path(args["model_repository"], "closed").exists():
            time.sleep(0.005)
        self.delay_s = float(parameters["delay_s"]["string_value"])

    def execute(self, requests):
        time.sleep(self.delay_s)
        responses = []
        for request in requests:
            images = pb_utils.get_input_tensor_by_name(request, "images").as_numpy()
            rows = np.zeros((len(images), 10, 6), np.float32)
            rows[:, 0] = [0, 0, images.shape[2], images.shape[1], 0.9, self.version]
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("detections", rows)]))
        return responses
'''
BROKEN = "raise RuntimeError('the weights are\\n\\nrotten')\n"

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 4
input {{ name: "images" data_type: TYPE_UINT8 dims: [{height}, {width}, 3] }}
output {{ name: "detections" data_type: TYPE_FP32 dims: [10, 6] }}
instance_group {{ kind: KIND_CPU count: 1 }}
dynamic_batching {{ }}
parameters {{ key: "contract" value {{ string_value: "detections/1" }} }}
parameters {{ key: "names" value {{ string_value: {names} }} }}
parameters {{ key: "load_s" value {{ string_value: "{load_s}" }} }}
parameters {{ key: "delay_s" value {{ string_value: "{delay_s}" }} }}
"""


def write_model(
    repository: Path,
    name: str,
    *,
    versions: tuple[int, ...] = (1,),
    size_hw: tuple[int, int] = (48, 64),
    load_s: float = 0,
    delay_s: float = 0,
    code: str = STAND_IN,
) -> None:
    """A model whose only detection has the class ``NAME VERSION``."""
    names = json.dumps(json.dumps([f"{name} {number}" for number in range(4)]))
    for version in versions:
        (repository / name / str(version)).mkdir(parents=True)
        (repository / name / str(version) / "model.py").write_text(code)
    (repository / name / "config.pbtxt").write_text(
        CONFIG.format(name=name, height=size_hw[0], width=size_hw[1], names=names, load_s=load_s, delay_s=delay_s)
    )


def write_models(repository: Path) -> Path:
    write_model(repository, "day", versions=(1, 2, 3), delay_s=0.005)
    write_model(repository, "night", size_hw=(32, 32), load_s=0.5, delay_s=0.005)
    write_model(repository, "slow")
    write_model(repository, "broken", code=BROKEN)
    return repository


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    """In explicit control mode."""
    return triton_server(write_models(tmp_path_factory.mktemp("repository")), models=("day",))


@pytest.fixture(scope="module")
def fixed_server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    """Without explicit control."""
    repository = tmp_path_factory.mktemp("fixed")
    write_model(repository, "day")
    write_model(repository, "night")
    return triton_server(repository)


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def url_of(server: TritonServer, protocol: str) -> str:
    return server.grpc_url if protocol == "grpc" else server.http_url


@pytest.fixture
def url(server: TritonServer, protocol: str) -> Iterator[str]:
    """The server, left with version 3 of ``day`` alone."""
    url = url_of(server, protocol)
    yield url
    with ModelControl(url) as control:
        served = {(entry.name, entry.version) for entry in control.models() if entry.state == "READY"}
        if served != {("day", "3")}:
            for name in {name for name, _ in served}:
                control.unload(name)
                control.wait_until_unloaded(name)
            control.load("day")


@pytest.fixture
def control(url: str) -> Iterator[ModelControl]:
    with ModelControl(url, timeout_s=60) as control:
        yield control


def states(control: ModelControl, model: str) -> dict[str, str]:
    return {entry.version: entry.state for entry in control.versions(model)}


def ready(control: ModelControl, model: str) -> list[str]:
    return [entry.version for entry in control.versions(model) if entry.state == "READY"]


@contextlib.contextmanager
def held(server: TritonServer, model: str) -> Iterator[None]:
    """As long as this lasts, the model does not get beyond loading."""
    closed = server.options.repository / model / "closed"
    closed.touch()
    try:
        yield
    finally:
        closed.unlink()


def who(detector: Detector | ScheduledDetector) -> str:
    """The name that tells model and version."""
    (found,) = detector.detect(IMAGE)
    return found.name


class TestModelControl:
    def test_every_model_of_the_repository_is_listed(self, control: ModelControl) -> None:
        assert {entry.name for entry in control.models()} == {"broken", "day", "night", "slow"}
        assert states(control, "day")["3"] == "READY"

    def test_loaded_model_answers_and_unloaded_model_does_not(self, control: ModelControl, url: str) -> None:
        control.load("night")
        with Detector(url, "night") as detector:
            assert who(detector) == "night 1"
            control.unload("night")
            control.wait_until_unloaded("night")
            with pytest.raises(ModelNotReadyError):
                who(detector)
        assert states(control, "night") == {"1": "UNAVAILABLE"}
        control.unload("night")

    def test_unknown_model_comes_with_those_there_are(self, control: ModelControl) -> None:
        for change in (control.load, control.unload, control.versions, lambda name: control.use(name, 1)):
            with pytest.raises(ModelNotFoundError, match=r"no model 'dusk' at .*: broken, day, night, slow$"):
                change("dusk")

    def test_model_that_cannot_be_loaded_says_why_on_one_line(self, control: ModelControl) -> None:
        with pytest.raises(ModelNotReadyError, match=r"cannot be loaded: .*the weights are rotten") as caught:
            control.load("broken")
        assert "\n" not in str(caught.value)

    def test_damaged_configuration_keeps_what_is_served(
        self, control: ModelControl, server: TritonServer, url: str
    ) -> None:
        config = server.options.repository / "day" / "config.pbtxt"
        whole = config.read_text()
        try:
            config.write_text("max_batch_size: many")
            with pytest.raises(ModelNotReadyError, match=r"model 'day' at .* cannot be loaded"):
                control.load("day")
        finally:
            config.write_text(whole)
        with Detector(url, "day") as detector:
            assert who(detector) == "day 3"

    def test_time_that_is_over_is_told_apart_from_a_server_that_is_gone(self, url: str, server: TritonServer) -> None:
        with (
            held(server, "slow"),
            ModelControl(url, timeout_s=0.5) as hasty,
            pytest.raises(DeadlineExceededError) as caught,
        ):
            hasty.load("slow")
        assert "model 'slow'" in str(caught.value)
        assert "not ready after 0.5 s" in str(caught.value)
        with ModelControl(url) as control:
            assert eventually(lambda: ready(control, "slow") == ["1"])

    def test_close_ends_what_another_thread_waits_for(self, url: str, server: TritonServer) -> None:
        waiting = ModelControl(url, timeout_s=60)
        # While a model is loaded over HTTP, the server answers nothing else there.
        with ModelControl(server.grpc_url) as control, ThreadPoolExecutor(1) as thread:
            with held(server, "slow"):
                load = thread.submit(waiting.load, "slow")
                assert eventually(lambda: "LOADING" in states(control, "slow").values())
                waiting.close()
                with pytest.raises(ServerUnavailableError, match="closed"):
                    load.result()
            assert eventually(lambda: ready(control, "slow") == ["1"])

    def test_model_with_an_odd_name_is_not_found(self, control: ModelControl) -> None:
        for name in ("../day", "day/versions/1", "a b", "ü", "x" * 3000, "day?x=1", "%2e%2e"):
            with pytest.raises((ModelNotFoundError, ModelNotReadyError)):
                control.load(name)

    def test_server_that_is_not_in_explicit_mode_says_so(self, fixed_server: TritonServer, protocol: str) -> None:
        with ModelControl(url_of(fixed_server, protocol)) as control:
            assert ready(control, "day") == ["1"]
            for change in (control.load, control.unload, lambda name: control.use(name, 1)):
                with pytest.raises(ControlModeError, match="not in explicit control mode") as caught:
                    change("day")
                assert "--model-control-mode=explicit" in str(caught.value)
                assert "\n" not in str(caught.value)

    def test_address_without_a_server_is_unavailable(self, protocol: str, free_ports: FreePorts) -> None:
        with (
            ModelControl(f"{protocol}://127.0.0.1:{free_ports(1)[0]}", timeout_s=5) as control,
            pytest.raises(ServerUnavailableError, match="no server at"),
        ):
            control.load("day")


class TestVersions:
    def test_version_is_switched_and_the_detector_follows(self, control: ModelControl, url: str) -> None:
        with Detector(url, "day") as detector:
            assert who(detector) == "day 3"
            for version in (1, 2, 3):
                control.use("day", version)
                assert ready(control, "day") == [str(version)]
                assert who(detector) == f"day {version}"

    def test_missing_version_changes_nothing(self, control: ModelControl, url: str) -> None:
        with pytest.raises(ModelNotFoundError, match="has no version 7 in its repository; it serves: 3"):
            control.use("day", 7)
        with Detector(url, "day") as detector:
            assert who(detector) == "day 3"

    def test_version_of_a_model_that_is_not_loaded_is_refused(self, control: ModelControl) -> None:
        with pytest.raises(ModelNotReadyError, match=r"model 'night'.*is not ready"):
            control.use("night", 1)

    def test_choice_lasts_until_the_model_is_unloaded(self, control: ModelControl) -> None:
        control.use("day", 1)
        control.load("day")
        assert ready(control, "day") == ["1"]
        control.unload("day")
        control.wait_until_unloaded("day")
        control.load("day")
        assert ready(control, "day") == ["3"]

    def test_no_request_is_lost_while_versions_change(self, control: ModelControl, url: str) -> None:
        with Detector(url, "day") as detector, under_load(lambda: who(detector)) as answers:
            for version in (1, 2, 1, 3):
                control.use("day", version)
                seen = len(answers)
                assert eventually(lambda seen=seen: len(answers) > seen + 50)  # type: ignore[misc]
        assert set(answers) == {"day 1", "day 2", "day 3"}


class under_load:  # noqa: N801 -- a context manager
    """Four threads that call ``ask`` again and again; their answers, and every failure at the end."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        self._stop = threading.Event()
        self._answers: list[str] = []
        self._threads = ThreadPoolExecutor(4)

    def __enter__(self) -> list[str]:
        self._running = [self._threads.submit(self._run) for _ in range(4)]
        return self._answers

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads.shutdown()
        for running in self._running:
            running.result()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._answers.append(self._ask())


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: str) -> None:
        self.now = datetime.fromisoformat(now).replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def set(self, now: str) -> None:
        self.now = datetime.fromisoformat(now).replace(tzinfo=UTC)


DAY_AND_NIGHT = "day=day@06:00,night=night@20:00"


def scheduled(url: str, clock: Clock, text: str = DAY_AND_NIGHT, unload_after_s: float | None = 0) -> ScheduledDetector:
    return ScheduledDetector(
        read_schedule(text, ZoneInfo("UTC")),
        lambda model: Detector(url, model, timeout_s=20),
        ModelControl(url, timeout_s=60),
        prepare_s=120,
        unload_after_s=unload_after_s,
        clock=clock,
    )


class TestScheduledDetector:
    def test_many_frames_go_by_shared_memory(self, server: TritonServer, url: str) -> None:
        frames = [np.zeros((9, 9, 3), np.uint8)] * 40
        schedule = read_schedule("all=day", ZoneInfo("UTC"))
        with ScheduledDetector.from_url(
            url, schedule, control_url=server.grpc_url, send="shared-memory", unload_after_s=None
        ) as detector:
            found = list(detector.detect_many(frames))
        assert [len(each) for each in found] == [1] * 40

    def test_model_of_the_hour_is_loaded_and_used(self, url: str, control: ModelControl) -> None:
        with scheduled(url, Clock("2026-11-22T20:00")) as detector:
            assert (who(detector), detector.model, detector.size) == ("night 1", "night", (32, 32))
            assert detector.names[1] == "night 1"
            assert detector.problem is None

    def test_next_model_is_ready_before_its_switch_and_the_old_one_is_unloaded_after(
        self, url: str, control: ModelControl
    ) -> None:
        clock = Clock("2026-11-22T12:00")
        with scheduled(url, clock) as detector:
            clock.set("2026-11-22T19:57:59")
            time.sleep(1.5)
            assert ready(control, "night") == []
            clock.set("2026-11-22T19:58:00")
            assert eventually(lambda: ready(control, "night") == ["1"])
            assert who(detector) == "day 3"
            clock.set("2026-11-22T20:00:00")
            assert eventually(lambda: who(detector) == "night 1")
            assert eventually(lambda: ready(control, "day") == [])
            clock.set("2026-11-23T06:00:00")
            assert eventually(lambda: who(detector) == "day 3")
            assert eventually(lambda: ready(control, "night") == [])

    def test_no_frame_is_lost_by_switches_under_load(self, url: str, control: ModelControl) -> None:
        clock = Clock("2026-11-22T12:00")
        with scheduled(url, clock) as detector, under_load(lambda: who(detector)) as answers:
            for day in range(23, 26):
                for hour, model, old in (("20:00", "night", "day"), ("06:00", "day", "night")):
                    clock.set(f"2026-11-{day - (hour == '20:00')}T{hour}")
                    assert eventually(lambda model=model: detector.model == model)  # type: ignore[misc]
                    seen = len(answers)
                    assert eventually(lambda seen=seen: len(answers) > seen + 50)  # type: ignore[misc]
                    assert eventually(lambda old=old: ready(control, old) == [])  # type: ignore[misc]
        assert set(answers) == {"day 3", "night 1"}

    def test_call_that_has_begun_is_answered_by_the_model_that_it_began_with(
        self, url: str, control: ModelControl
    ) -> None:
        clock = Clock("2026-11-22T12:00")
        entered, go_on = threading.Event(), threading.Event()

        def frames() -> Iterator[np.ndarray]:
            for number in range(9):
                if number == 5:
                    entered.set()
                    assert go_on.wait(60)
                yield IMAGE

        with scheduled(url, clock) as detector, ThreadPoolExecutor(1) as thread:
            running = thread.submit(detector.detect_batch, frames())
            assert entered.wait(60)
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: who(detector) == "night 1")
            time.sleep(1.5)
            assert ready(control, "day") == ["3"]
            go_on.set()
            assert [found.name for detections in running.result() for found in detections] == ["day 3"] * 9
            assert eventually(lambda: ready(control, "day") == [])

    def test_model_that_does_not_load_leaves_the_old_one_in_use_and_says_so(
        self, url: str, control: ModelControl, server: TritonServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = Clock("2026-11-22T12:00")
        file = server.options.repository / "broken" / "1" / "model.py"
        with (
            caplog.at_level(logging.WARNING),
            scheduled(url, clock, "day=day@06:00,night=broken@20:00") as detector,
            under_load(lambda: who(detector)) as answers,
        ):
            clock.set("2026-11-22T19:59")
            assert eventually(lambda: detector.problem is not None)
            assert "cannot prepare model 'broken'" in str(detector.problem)
            clock.set("2026-11-22T20:01")
            assert eventually(lambda: "cannot switch to model 'broken'" in str(detector.problem))
            assert "the weights are rotten" in str(detector.problem)
            assert "'day' stays in use, and it is tried again" in str(detector.problem)
            assert detector.model == "day"
            try:
                file.write_text(STAND_IN)
                clock.set("2026-11-22T20:03")
                assert eventually(lambda: detector.model == "broken")
                assert eventually(lambda: detector.problem is None)
                assert eventually(lambda: "broken 1" in answers)
            finally:
                file.write_text(BROKEN)
        assert set(answers) == {"day 3", "broken 1"}
        messages = [record.getMessage() for record in caplog.records if record.name == "clients.models.scheduled"]
        assert len(messages) == 2

    def test_old_model_may_stay_loaded_for_others(self, url: str, control: ModelControl) -> None:
        clock = Clock("2026-11-22T12:00")
        with scheduled(url, clock, unload_after_s=None) as detector:
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: who(detector) == "night 1")
            time.sleep(1.5)
            assert ready(control, "day") == ["3"]

    def test_clock_that_is_set_back_takes_the_model_back(self, url: str, control: ModelControl) -> None:
        clock = Clock("2026-11-22T20:00")
        with scheduled(url, clock, unload_after_s=3600) as detector:
            clock.set("2026-11-22T19:00")
            assert eventually(lambda: who(detector) == "day 3")
            clock.set("2026-11-22T20:01")
            assert eventually(lambda: who(detector) == "night 1")
            assert ready(control, "day") == ["3"]
        assert eventually(lambda: ready(control, "day") == [])
        assert ready(control, "night") == ["1"]

    def test_model_that_somebody_unloads_is_loaded_again(self, url: str, control: ModelControl) -> None:
        with scheduled(url, Clock("2026-11-22T20:00")) as detector:
            control.unload("night")
            failures = 0
            give_up = time.monotonic() + 60
            while failures == 0 or ready(control, "night") == []:
                assert time.monotonic() < give_up
                try:
                    who(detector)
                except ModelNotReadyError:
                    failures += 1
            assert eventually(lambda: who(detector) == "night 1")

    def test_close_does_not_wait_for_a_model_that_is_being_loaded(
        self, url: str, server: TritonServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = Clock("2026-11-22T12:00")
        detector = scheduled(url, clock, "day=day@06:00,night=slow@20:00")
        with ModelControl(server.grpc_url) as control:
            with held(server, "slow"):
                clock.set("2026-11-22T20:00")
                assert eventually(lambda: "LOADING" in states(control, "slow").values())
                detector.close()
                assert "LOADING" in states(control, "slow").values()
                assert caplog.messages == []
            assert eventually(lambda: ready(control, "slow") == ["1"])

    def test_one_address_is_enough_over_grpc_and_http_has_two(
        self, server: TritonServer, control: ModelControl
    ) -> None:
        schedule = read_schedule("always=day")
        for url, control_url in ((server.grpc_url, None), (server.http_url, server.grpc_url)):
            with ScheduledDetector.from_url(url, schedule, control_url=control_url) as detector:
                assert who(detector) == "day 3"
        with pytest.raises(OptionsError, match="expected control_url, the gRPC address"):
            ScheduledDetector.from_url(server.http_url, schedule)

    def test_model_that_cannot_be_loaded_at_the_beginning_is_an_error(self, url: str) -> None:
        with pytest.raises(ModelNotReadyError, match="the weights are rotten"):
            scheduled(url, Clock("2026-11-22T20:00"), "all=broken")

    def test_server_that_loads_nothing_on_request_switches_all_the_same(
        self, fixed_server: TritonServer, protocol: str
    ) -> None:
        clock = Clock("2026-11-22T12:00")
        with scheduled(url_of(fixed_server, protocol), clock) as detector:
            assert who(detector) == "day 1"
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: who(detector) == "night 1")
            clock.set("2026-11-23T12:00")
            assert eventually(lambda: who(detector) == "day 1")

    def test_switch_survives_a_restart_of_the_server(self, tmp_path: Path, free_ports: FreePorts) -> None:
        http_port, grpc_port, metrics_port = free_ports(3)
        options = ServerOptions(
            repository=write_models(tmp_path),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            models=("slow",),
        )
        clock = Clock("2026-11-22T12:00")
        with contextlib.ExitStack() as second:
            with TritonServer(options) as server:
                detector = second.enter_context(scheduled(server.grpc_url, clock))
                clock.set("2026-11-22T19:59")
                with ModelControl(server.grpc_url) as control:
                    assert eventually(lambda: ready(control, "night") == ["1"])
            second.enter_context(TritonServer(options))
            clock.set("2026-11-22T20:00")
            assert eventually(lambda: _patiently(detector) == "night 1")


def _patiently(detector: ScheduledDetector) -> str:
    try:
        return who(detector)
    except ClientError:
        return ""


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "clients", name, *map(str, arguments)]


class TestModelsCommand:
    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command("models", *arguments), cwd=ROOT, check=False, capture_output=True, text=True)

    def test_models_are_a_table(self, url: str) -> None:
        result = self.run("--url", url)
        assert (result.returncode, result.stderr) == (0, "")
        heading, *rows = result.stdout.splitlines()
        assert heading.split() == ["MODEL", "VERSION", "STATE"]
        assert ["day", "3", "READY"] in [row.split() for row in rows]
        assert self.run("list", "--url", url).stdout == result.stdout

    def test_model_is_loaded_switched_and_unloaded(self, url: str) -> None:
        assert json.loads(self.run("--json", "load", "night", "--url", url).stdout)[0]["state"] == "READY"
        used = self.run("use", "day", "--version", 2, "--url", url, "--json")
        assert {(entry["version"], entry["state"]) for entry in json.loads(used.stdout)} >= {("2", "READY")}
        assert json.loads(self.run("unload", "night", "--json", "--url", url).stdout)[0]["state"] == "UNAVAILABLE"
        assert "night" in self.run("versions", "night", "--url", url).stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("load", "dusk"), "no model 'dusk'"),
            (("load", "broken"), "the weights are rotten"),
            (("use", "day", "--version", 9), "has no version 9"),
        ],
    )
    def test_refusal_is_one_line(self, url: str, arguments: tuple[object, ...], message: str) -> None:
        result = self.run(*arguments, "--url", url)
        assert (result.returncode, result.stdout) == (1, "")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1

    def test_server_that_is_not_in_explicit_mode_is_one_line(self, fixed_server: TritonServer, protocol: str) -> None:
        result = self.run("unload", "day", "--url", url_of(fixed_server, protocol))
        assert result.returncode == 1
        assert "it is not in explicit control mode" in result.stderr
        assert result.stderr.count("\n") == 1


class _Gateway:
    """A gateway process, and a plain HTTP client of it."""

    def __init__(self, url: str, model: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            command("gateway", "--url", url, "--model", model, "--port", 0, *arguments),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()

    def __enter__(self) -> _Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def get(self, path: str) -> int:
        return self._request("GET", path, None)[0]

    def ask(self, query: str, **variables: object) -> tuple[int, dict[str, Any]]:
        return self._request("POST", "/graphql", json.dumps({"query": query, "variables": variables}).encode())

    def _request(self, method: str, path: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
        port = int(self.line.rpartition("/graphql")[0].rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())


def png(width: int, height: int) -> str:
    is_encoded, encoded = cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))
    assert is_encoded
    return base64.b64encode(encoded.tobytes()).decode()


class TestGateway:
    def test_program_without_grpc_gets_what_it_asks_for(self, url: str) -> None:
        query = """query($image: Image!) {
          detect(image: $image, classes: ["day 3", "day 1"], region: {x1: 60, y1: 0, x2: 500, y2: 500}, max: 5) {
            width height count here: any(class: "day 3") other: any(class: "day 1")
            detections { class confidence xyxy }
          }
        }"""
        with _Gateway(url, "day") as gateway:
            assert gateway.line.startswith("gateway to day at http://127.0.0.1:")
            status, answer = gateway.ask(query, image=png(128, 96))
            assert (status, answer["data"]["detect"]) == (
                200,
                {
                    "width": 128,
                    "height": 96,
                    "count": 1,
                    "here": True,
                    "other": False,
                    "detections": [{"class": "day 3", "confidence": 0.9, "xyxy": [0.0, 0.0, 128.0, 96.0]}],
                },
            )

    def test_gateway_follows_the_server(self, url: str, control: ModelControl) -> None:
        query = "query($image: Image!) { detect(image: $image) { count } }"
        with _Gateway(url, "day") as gateway:
            assert gateway.get("/health/ready") == 200
            control.unload("day")
            control.wait_until_unloaded("day")
            assert gateway.get("/health/ready") == 503
            assert gateway.get("/health/live") == 200
            status, answer = gateway.ask(query, image=png(9, 9))
            assert (status, answer["data"]) == (200, {"detect": None})
            assert answer["errors"][0]["extensions"] == {"code": "MODEL_NOT_READY"}
            control.load("day")
            assert gateway.get("/health/ready") == 200
            assert gateway.ask(query, image=png(9, 9)) == (200, {"data": {"detect": {"count": 1}}})

    def test_gateway_goes_by_the_model_that_is_loaded_now(
        self, url: str, control: ModelControl, server: TritonServer
    ) -> None:
        config = server.options.repository / "day" / "config.pbtxt"
        whole = config.read_text()
        query = "query($image: Image!) { model { width classes } detect(image: $image) { detections { class } } }"
        with _Gateway(url, "day") as gateway:
            _, before = gateway.ask(query, image=png(9, 9))
            try:
                config.write_text(whole.replace("day 3", "dawn").replace("[48, 64, 3]", "[48, 96, 3]"))
                control.load("day")
                assert eventually(lambda: gateway.ask("{ model { width } }")[1] == {"data": {"model": {"width": 96}}})
                _, after = gateway.ask(query, image=png(9, 9))
                assert gateway.process.stdout is not None
                said = gateway.process.stdout.readline()
            finally:
                config.write_text(whole)
                control.load("day")
        assert before["data"]["detect"] == {"detections": [{"class": "day 3"}]}
        assert after["data"]["detect"] == {"detections": [{"class": "dawn"}]}
        assert after["data"]["model"]["classes"][3] == "dawn"
        assert said == "day has changed: 96x48, day 0, day 1, day 2, dawn\n"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_ends_it_in_order(self, server: TritonServer, number: int) -> None:
        with _Gateway(server.grpc_url, "day") as gateway:
            assert gateway.get("/health/live") == 200
            gateway.process.send_signal(number)
            assert gateway.process.communicate(timeout=60) == ("", "")
            assert gateway.process.returncode == 0

    def test_requests_side_by_side_get_their_own_answers(self, server: TritonServer) -> None:
        query = "query($image: Image!) { detect(image: $image) { width count } }"
        with _Gateway(server.grpc_url, "day", "--workers", 8) as gateway, ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda width: gateway.ask(query, image=png(width, 20)), range(10, 74)))
        assert answers == [(200, {"data": {"detect": {"width": width, "count": 1}}}) for width in range(10, 74)]

    def test_port_that_is_taken_is_one_line(self, server: TritonServer) -> None:
        arguments = ("--url", server.grpc_url, "--model", "day", "--port", server.options.http_port)
        result = subprocess.run(
            command("gateway", *arguments), cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
        )
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: cannot listen on port {server.options.http_port} of 127.0.0.1")
        assert result.stderr.count("\n") == 1
