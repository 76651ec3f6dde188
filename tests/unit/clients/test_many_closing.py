"""Who leaves many images early lets the requests under way end: their cancellation may end an old server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from clients import many
from clients.many import AsyncResults, Results
from clients.wire.transport import Cancellation, CancelledByCallerError


class Request:
    """One that is answered when the test says so."""

    def __init__(self) -> None:
        self.begun, self.answered = threading.Event(), threading.Event()
        self.stops = 0
        self.followed = False

    def __call__(self, source: int, _index: int, cancellation: Cancellation) -> int:
        with cancellation.stopping_by(self.stop):
            self.begun.set()
            assert self.answered.wait(30)
        cancellation.check()
        self.followed = True
        return source

    def stop(self) -> None:
        self.stops += 1
        self.answered.set()


def begun(request: Request) -> Results[int, int]:
    """Results of which one is waited for by a thread."""
    results = Results(request, [1], 1)
    threading.Thread(target=lambda: list(results), daemon=True).start()
    assert request.begun.wait(30)
    return results


def test_request_that_is_answered_in_time_is_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "ENDING_S", 60)
    request = Request()
    results = begun(request)
    closing = threading.Thread(target=results.close)
    closing.start()
    assert results._cancellation._event.wait(30)
    request.answered.set()
    closing.join(30)
    assert not closing.is_alive()
    assert request.stops == 0
    assert not request.followed, "what comes after it is not begun"


def test_request_that_is_not_answered_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "ENDING_S", 0.01)
    request = Request()
    begun(request).close()
    assert request.stops == 1


@pytest.mark.parametrize(("ending_s", "stops"), [(60, 0), (0.01, 1)])
def test_last_reference_is_dropped_without_waiting(
    monkeypatch: pytest.MonkeyPatch, ending_s: float, stops: int
) -> None:
    monkeypatch.setattr(many, "ENDING_S", ending_s)
    request = Request()
    results = Results(request, [1], 1)
    # As by a loop that is left early: nobody waits for its answer.
    results._take_source()
    assert request.begun.wait(30)
    del results
    if stops:
        assert request.answered.wait(30)
    assert request.stops == stops
    request.answered.set()


def test_request_that_begins_while_it_is_closed_may_end() -> None:
    cancellation = Cancellation()
    cancellation.check()
    cancellation.refuse()
    stops = []
    with cancellation.stopping_by(lambda: stops.append(1)):
        pass
    assert stops == []
    with pytest.raises(CancelledByCallerError):
        cancellation.check()


@pytest.mark.parametrize(("ending_s", "ended"), [(60, [1]), (0.01, [])])
def test_tasks_are_cancelled_only_when_they_do_not_end(
    monkeypatch: pytest.MonkeyPatch, ending_s: float, ended: list[int]
) -> None:
    monkeypatch.setattr(many, "ENDING_S", ending_s)
    answers: list[int] = []

    async def run() -> None:
        has_begun, answered = asyncio.Event(), asyncio.Event()

        async def detect(source: int, _index: int) -> int:
            has_begun.set()
            await answered.wait()
            answers.append(source)
            return source

        results = AsyncResults(detect, [1], 1)
        waiting = asyncio.ensure_future(anext(results))
        await has_begun.wait()
        waiting.cancel()
        closing = asyncio.ensure_future(results.aclose())
        if ended:
            await asyncio.sleep(0)
            answered.set()
        await closing

    asyncio.run(run())
    assert answers == ended


def test_ctrl_c_while_requests_may_end_cancels_them(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request()
    results = begun(request)
    wait_for = results._under_way.changed.wait_for

    def interrupted(is_so: Callable[[], bool], timeout_s: float | None = None) -> bool:
        # The thread that waits for a result waits here, too.
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return wait_for(is_so, timeout_s)

    monkeypatch.setattr(results._under_way.changed, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.close()
    assert request.stops == 1


def test_who_is_cancelled_while_tasks_may_end_cancels_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "ENDING_S", 60)

    async def run() -> None:
        has_begun = asyncio.Event()

        async def detect(source: int, _index: int) -> int:
            has_begun.set()
            await asyncio.Event().wait()
            return source

        results = AsyncResults(detect, [1], 1)
        waiting = asyncio.ensure_future(anext(results))
        await has_begun.wait()
        waiting.cancel()
        (task,) = results._pending
        closing = asyncio.ensure_future(results.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([task, closing])
        assert task.cancelled()

    asyncio.run(asyncio.wait_for(run(), 30))
