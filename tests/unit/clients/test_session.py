"""The one logic, driven step by step: no connection, and a clock that the test moves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from clients.batches import InputPool
from clients.contract import Contract
from clients.detections import Detections
from clients.errors import (
    AccessDeniedError,
    ClientError,
    DeadlineExceededError,
    ImageError,
    InferenceError,
    QueueFullError,
    ServerUnavailableError,
    TlsError,
)
from clients.options import ConnectionOptions
from clients.pace import Pace
from clients.retry import RetryPolicy
from clients.session import Session
from clients.wire.address import Address
from clients.wire.grpc_dialect import GrpcDialect
from clients.wire.steps import GrpcCall, Pause, RpcStatusError, Step, Steps, Work

ROOT = Path(__file__).resolve().parents[3]
PICTURE = np.zeros((48, 64, 3), np.uint8)
REFUSED = RpcStatusError("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN: Connection refused")
LOST = RpcStatusError("UNAVAILABLE", "Socket closed")
FULL = RpcStatusError("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size")

EXPIRED = RpcStatusError("UNAVAILABLE", "[request id: <id_unknown>] Request timeout expired")

Answer = bytes | Exception


def config_answer(names: str = '["a", "b"]') -> bytes:
    config = model_config_pb2.ModelConfig(name="m", max_batch_size=4)
    config.input.add(name="images", data_type=model_config_pb2.TYPE_UINT8, dims=[32, 32, 3])
    config.output.add(name="detections", data_type=model_config_pb2.TYPE_FP32, dims=[10, 6])
    config.parameters["contract"].string_value = "detections/1"
    config.parameters["names"].string_value = names
    return bytes(service_pb2.ModelConfigResponse(config=config).SerializeToString())


def rows_answer(images: int = 1) -> bytes:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="detections", datatype="FP32", shape=[images, 10, 6])
    response.raw_output_contents.append(bytes(images * 10 * 6 * 4))
    return bytes(response.SerializeToString())


@dataclass
class Play:
    """Performs a session's steps from a script, and moves the clock."""

    answers: list[Answer]
    seconds_per_call: float = 0.0
    now: float = 100.0
    calls: list[GrpcCall] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def perform(self, step: Step) -> Any:
        match step:
            case Work():
                return step.function()
            case Pause():
                self.pauses.append(step.seconds)
                self.now += step.seconds
                return None
            case GrpcCall():
                self.calls.append(step)
                self.now += self.seconds_per_call
                answer = self.answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer
        raise AssertionError(step)

    def run(self, steps: Steps[Any]) -> Any:
        act: Callable[[], Step] = lambda: next(steps)  # noqa: E731
        try:
            while True:
                step = act()
                try:
                    result = self.perform(step)
                except Exception as error:
                    failure = error
                    act = lambda: steps.throw(failure)  # noqa: B023, E731
                else:
                    act = lambda: steps.send(result)  # noqa: B023, E731
        except StopIteration as stop:
            return stop.value


def opened(play: Play, *, timeout_s: float = 30.0, **options: Any) -> tuple[Session, GrpcDialect]:
    session = Session(
        "m", timeout_s=timeout_s, options=ConnectionOptions(**options), clock=play.clock, chance=lambda: 1.0
    )
    dialect = GrpcDialect(Address("grpc", "127.0.0.1", 8001))
    answers, play.answers = play.answers, [config_answer()]
    play.run(session.open(dialect))
    play.answers, play.calls = answers, []
    return session, dialect


def detect(play: Play, **options: Any) -> Detections:
    session, dialect = opened(play, **options)
    found: Detections = play.run(session.detect(dialect, PICTURE, 0.25, 0))
    return found


class TestRefresh:
    def test_model_that_is_what_it_was_needs_no_new_session(self) -> None:
        play = Play([config_answer()])
        session, dialect = opened(play)
        assert play.run(session.refreshed(dialect)) is None

    def test_other_classes_make_a_new_session_and_leave_this_one(self) -> None:
        play = Play([config_answer('["c", "d"]'), rows_answer()])
        session, dialect = opened(play)
        fresh = play.run(session.refreshed(dialect))
        assert fresh.contract.names == ("c", "d")
        assert session.contract.names == ("a", "b")
        assert play.run(fresh.detect(dialect, PICTURE, 0.25, 0)).names == ("c", "d")

    def test_server_that_is_gone_leaves_the_session_as_it_is(self) -> None:
        play = Play([REFUSED] * 4)
        session, dialect = opened(play)
        with pytest.raises(ServerUnavailableError):
            play.run(session.refreshed(dialect))
        assert session.contract.names == ("a", "b")


class TestOneOfMany:
    def detect(self, play: Play, pace: Pace, **options: Any) -> Detections:
        session, dialect = opened(play, **options)
        steps = session.detect_one_of_many(dialect, PICTURE, 0.25, priority=0, index=0, pace=pace)
        found: Detections = play.run(steps)
        return found

    def test_what_lay_in_the_queue_for_too_long_is_sent_again_and_fewer_at_a_time(self) -> None:
        play, pace = Play([EXPIRED, EXPIRED, rows_answer()], seconds_per_call=1.0), Pace(16)
        assert len(self.detect(play, pace)) == 0
        assert pace.limit == 4
        assert len(play.calls) == 3

    def test_it_ends_in_the_error_of_the_queue_within_its_time(self) -> None:
        play = Play([EXPIRED] * 20, seconds_per_call=1.0)
        with pytest.raises(QueueFullError):
            self.detect(play, Pace(16), timeout_s=5.0)
        # A second of it for the contract.
        assert play.now <= 106.0
        assert all(call.timeout_s <= 5.0 for call in play.calls)

    def test_policy_of_one_attempt_sends_once(self) -> None:
        play = Play([EXPIRED, rows_answer()])
        with pytest.raises(QueueFullError):
            self.detect(play, Pace(16), retry=RetryPolicy(attempts=1))
        assert len(play.calls) == 1

    def test_other_errors_of_the_server_are_not_sent_again(self) -> None:
        play, pace = Play([RpcStatusError("INTERNAL", "the model broke"), rows_answer()]), Pace(16)
        with pytest.raises(InferenceError, match="the model broke"):
            self.detect(play, pace)
        assert (len(play.calls), pace.limit) == (1, 16)


class TestRetries:
    def test_refused_connection_is_tried_again_with_growing_pauses(self) -> None:
        play = Play([REFUSED, REFUSED, REFUSED, rows_answer()])
        assert len(detect(play)) == 0
        assert play.pauses == [0.05, 0.1, 0.2]
        assert [call.method for call in play.calls] == ["ModelInfer"] * 4
        assert len({call.message for call in play.calls}) == 1

    def test_full_queue_is_tried_again(self) -> None:
        play = Play([FULL, rows_answer()])
        assert len(detect(play)) == 0

    def test_last_error_is_raised_after_the_last_attempt(self) -> None:
        play = Play([FULL, REFUSED, FULL, FULL])
        with pytest.raises(QueueFullError):
            detect(play)
        assert not play.answers

    def test_one_attempt_is_one_attempt(self) -> None:
        play = Play([REFUSED])
        with pytest.raises(ServerUnavailableError):
            detect(play, retry=RetryPolicy(attempts=1))
        assert play.pauses == []

    @pytest.mark.parametrize(
        ("failure", "expected"),
        [
            # The server is asked whether it lives, and does not answer.
            ([LOST, LOST], ServerUnavailableError),
            ([RpcStatusError("INTERNAL", "out of paint")], InferenceError),
            ([RpcStatusError("UNAVAILABLE", "Request timeout expired")], QueueFullError),
            ([RpcStatusError("DEADLINE_EXCEEDED", "Deadline Exceeded")], DeadlineExceededError),
            ([RpcStatusError("UNAVAILABLE", "This protocol is restricted, expecting header 'x'")], AccessDeniedError),
        ],
    )
    def test_request_that_may_have_been_taken_is_sent_once(
        self, failure: list[Answer], expected: type[ClientError]
    ) -> None:
        play = Play(list(failure))
        with pytest.raises(expected):
            detect(play)
        assert [call.method for call in play.calls].count("ModelInfer") == 1
        assert play.pauses == []

    def test_nothing_is_sent_after_the_time_is_over(self) -> None:
        play = Play([REFUSED] * 50, seconds_per_call=0.3)
        with pytest.raises(ServerUnavailableError):
            detect(play, timeout_s=2.0, retry=RetryPolicy(attempts=50, first_pause_s=0.5))
        assert play.now <= 100.3 + 2.0 + 0.3
        for call in play.calls:
            assert call.timeout_s <= 2.0
        # What is left shrinks with every attempt.
        assert [call.timeout_s for call in play.calls] == sorted((call.timeout_s for call in play.calls), reverse=True)

    def test_questions_about_an_error_end_with_the_callers_time(self) -> None:
        play = Play([LOST, LOST], seconds_per_call=0.9)
        with pytest.raises(ServerUnavailableError):
            detect(play, timeout_s=1.0)
        infer, live = play.calls
        assert (infer.method, live.method) == ("ModelInfer", "ServerLive")
        assert live.timeout_s <= 0.11


class TestDeadline:
    def test_deadline_covers_all_requests_of_a_batch(self) -> None:
        play = Play([rows_answer(4), rows_answer(4), rows_answer(4)], seconds_per_call=1.0)
        session, dialect = opened(play, deadline_s=1.5)
        with pytest.raises(DeadlineExceededError):
            play.run(session.detect_batch(dialect, [PICTURE] * 12, 0.25, 0))
        assert [round(call.timeout_s, 3) for call in play.calls] == [1.5, 0.5]

    def test_without_it_each_request_has_its_own_time(self) -> None:
        play = Play([rows_answer(4), rows_answer(4), rows_answer(1)], seconds_per_call=1.0)
        session, dialect = opened(play, timeout_s=1.2)
        assert len(play.run(session.detect_batch(dialect, [PICTURE] * 9, 0.25, 0))) == 9
        assert [round(call.timeout_s, 3) for call in play.calls] == [1.2] * 3

    def test_error_names_the_deadline_also_where_it_passed_before_the_request(self) -> None:
        play = Play([rows_answer(4), rows_answer(4)], seconds_per_call=2.0)
        session, dialect = opened(play, deadline_s=1.5)
        with pytest.raises(DeadlineExceededError, match=r"within 1\.5 s"):
            play.run(session.detect_batch(dialect, [PICTURE] * 8, 0.25, 0))

    def test_error_names_the_time_that_the_caller_gave(self) -> None:
        play = Play([REFUSED, RpcStatusError("DEADLINE_EXCEEDED", "")], seconds_per_call=0.1)
        with pytest.raises(DeadlineExceededError, match=r"within 0\.7 s"):
            detect(play, timeout_s=0.7)


class TestReady:
    @pytest.mark.parametrize("ready", [True, False])
    def test_what_the_server_says_is_passed_on(self, ready: bool) -> None:
        play = Play([bytes(service_pb2.ModelReadyResponse(ready=ready).SerializeToString())])
        session, dialect = opened(play)
        assert play.run(session.is_ready(dialect)) is ready

    @pytest.mark.parametrize("failure", [REFUSED, RpcStatusError("DEADLINE_EXCEEDED", "")])
    def test_server_that_is_not_there_is_not_ready(self, failure: RpcStatusError) -> None:
        play = Play([failure])
        session, dialect = opened(play)
        assert play.run(session.is_ready(dialect)) is False

    def test_what_waiting_does_not_heal_is_raised(self) -> None:
        session, _ = opened(Play([]))
        dialect = GrpcDialect(Address("grpcs", "127.0.0.1", 8001))
        handshake = "failed to connect to all addresses; last error: UNKNOWN: Ssl handshake failed: x: OK"
        with pytest.raises(TlsError):
            Play([RpcStatusError("UNAVAILABLE", handshake)]).run(session.is_ready(dialect))


class TestArguments:
    def test_priority_is_in_the_request(self) -> None:
        play = Play([rows_answer(), rows_answer()])
        session, dialect = opened(play)
        for priority in (0, 3):
            play.run(session.detect(dialect, PICTURE, 0.25, priority))
        without, with_priority = (service_pb2.ModelInferRequest.FromString(call.message) for call in play.calls)
        assert "priority" not in without.parameters
        assert with_priority.parameters["priority"].uint64_param == 3

    @pytest.mark.parametrize("priority", [-1, 1 << 40, 1.5])
    def test_impossible_priority_is_refused(self, priority: Any) -> None:
        session, dialect = opened(Play([]))
        with pytest.raises(ValueError, match="expected a priority"):
            Play([]).run(session.detect(dialect, PICTURE, 0.25, priority))

    def test_detector_that_is_not_connected_says_so(self) -> None:
        with pytest.raises(RuntimeError, match="not connected yet"):
            _ = Session("m").contract


class TestMemory:
    contract = Contract(model="m", version="", size_hw=(640, 640), names=("a",), max_batch_size=4, max_detections=10)

    def test_arrays_are_used_again(self) -> None:
        pool = InputPool(self.contract)
        first = pool.take(1)
        pool.give_back(first)
        assert np.shares_memory(pool.take(1), first)
        assert not np.shares_memory(pool.take(1), first)
        three = pool.take(3)
        pool.give_back(three)
        four = pool.take(4)
        assert four.shape == (4, 640, 640, 3)
        assert np.shares_memory(three, four)

    def test_letterbox_allocates_nothing_after_the_first_frame(self) -> None:
        # In a process of its own: tracemalloc's peak is that of all threads.
        code = """
import itertools, json, tracemalloc
import numpy as np
from clients.images import ChannelOrder
from clients.letterbox import letterbox

peaks = {}
out = np.empty((640, 640, 3), np.uint8)
for image_hw, order in itertools.product(
    [(1080, 1920), (1920, 1080), (200, 300), (640, 640), (360, 640)], ChannelOrder
):
    image = np.zeros((*image_hw, 3), np.uint8)
    letterbox(image, (640, 640), out, order=order)
    tracemalloc.start()
    for _ in range(3):
        letterbox(image, (640, 640), out, order=order)
    peaks[f"{order} {image_hw}"] = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
print(json.dumps(peaks))
"""
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
        peaks_bytes = json.loads(result.stdout)
        assert len(peaks_bytes) == 10
        assert {case: peak for case, peak in peaks_bytes.items() if peak >= 20_000} == {}

    def test_request_that_nobody_answered_keeps_its_pixels(self) -> None:
        play = Play([rows_answer(), RpcStatusError("DEADLINE_EXCEEDED", ""), rows_answer()])
        session, dialect = opened(play)
        pool = session._pool
        assert pool is not None
        play.run(session.detect(dialect, PICTURE, 0.25, 0))
        assert [len(free) for free in pool._free.values()] == [1]
        with pytest.raises(DeadlineExceededError):
            play.run(session.detect(dialect, PICTURE, 0.25, 0))
        assert [len(free) for free in pool._free.values()] == [0]

    def test_bad_image_gives_its_array_back(self) -> None:
        session, dialect = opened(Play([]))
        with pytest.raises(ImageError):
            Play([]).run(session.detect(dialect, b"none", 0.25, 0))
        assert session._pool is not None
        assert [len(free) for free in session._pool._free.values()] == [1]
