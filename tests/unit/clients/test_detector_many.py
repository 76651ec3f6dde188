"""Many under way at a time, answered in order: on work whose moments the test decides."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from clients.errors import ImageError
from clients.many import AsyncResults, Results
from clients.pace import Pace
from clients.wire.transport import Cancellation, CancelledByCallerError


def double(source: int, _index: int, _cancellation: Cancellation) -> int:
    return 2 * source


class Gate:
    """Work that waits until it is let through, or cancelled."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.started = threading.Semaphore(0)
        self.cancelled: list[int] = []
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, source: int, _index: int, cancellation: Cancellation) -> int:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.started.release()
        try:
            with cancellation.stopping_by(self.open.set):
                assert self.open.wait(30)
                cancellation.check()
        except CancelledByCallerError:
            self.cancelled.append(source)
            raise
        finally:
            with self._lock:
                self.running -= 1
        return 2 * source


class TestResults:
    def test_results_come_in_the_order_of_their_sources(self) -> None:
        first_may_end = threading.Event()

        def last_first(source: int, index: int, _: Cancellation) -> int:
            if index == 0:
                assert first_may_end.wait(30)
            if index == 3:
                first_may_end.set()
            return 2 * source

        assert list(Results(last_first, range(50), 4)) == [2 * source for source in range(50)]

    def test_no_more_than_the_asked_number_is_under_way(self) -> None:
        gate = Gate()
        results = Results(gate, range(100), 3)
        threading.Timer(0.1, gate.open.set).start()
        assert next(results) == 0
        assert gate.most <= 3
        assert list(results) == [2 * source for source in range(1, 100)]
        assert gate.most <= 3

    def test_sources_are_taken_as_results_are_asked_for(self) -> None:
        taken = []

        def sources() -> Iterator[int]:
            for source in range(1000):
                taken.append(source)
                yield source

        results = Results(double, sources(), 4)
        assert taken == []
        for count in range(1, 20):
            next(results)
            assert len(taken) <= count + 2 * 4
        results.close()

    def test_slow_request_does_not_hold_up_those_after_it(self) -> None:
        others_answered = threading.Event()

        def first_last(source: int, index: int, _: Cancellation) -> int:
            if index == 0:
                assert others_answered.wait(30)
            # As many again as are under way at a time.
            if index == 5:
                others_answered.set()
            return 2 * source

        assert list(Results(first_last, range(50), 3)) == [2 * source for source in range(50)]

    def test_slow_request_lets_no_more_than_twice_the_number_be_taken(self) -> None:
        gate, taken = threading.Event(), []

        def sources() -> Iterator[int]:
            for source in range(1000):
                taken.append(source)
                if len(taken) == 6:
                    threading.Timer(0.1, gate.set).start()
                yield source

        def first_last(source: int, index: int, _: Cancellation) -> int:
            assert index > 0 or gate.wait(30)
            return source

        with Results(first_last, sources(), 3) as results:
            assert next(results) == 0
            assert len(taken) == 6

    def test_pace_limits_what_is_under_way(self) -> None:
        gate, pace = Gate(), Pace(4)
        pace.limit = 2
        results = Results(gate, range(20), 4, pace)
        threading.Timer(0.1, gate.open.set).start()
        assert list(results) == [2 * source for source in range(20)]
        assert gate.most <= 2

    def test_error_comes_at_its_place_and_the_rest_follows(self) -> None:
        def picky(source: int, index: int, _: Cancellation) -> int:
            if source % 3 == 1:
                raise ImageError(f"image {index}: no")
            return source

        results = Results(picky, range(7), 2)
        outcomes: list[Any] = []
        while True:
            try:
                outcomes.append(next(results))
            except StopIteration:
                break
            except ImageError as error:
                outcomes.append(str(error))
        assert outcomes == [0, "image 1: no", 2, 3, "image 4: no", 5, 6]

    def test_failing_source_ends_after_what_it_gave(self) -> None:
        def sources() -> Iterator[int]:
            yield 1
            yield 2
            raise OSError("the camera is gone")

        results = Results(double, sources(), 8)
        assert [next(results), next(results)] == [2, 4]
        with pytest.raises(OSError, match="the camera is gone"):
            next(results)
        with pytest.raises(StopIteration):
            next(results)

    def test_closing_ends_what_is_under_way(self) -> None:
        gate = Gate()
        results, given = Results(gate, iter(range(100)), 3), []
        thread = threading.Thread(target=lambda: given.extend(results))
        thread.start()
        for _ in range(3):
            assert gate.started.acquire(timeout=30)
        results.close()
        thread.join(30)
        assert not thread.is_alive()
        assert sorted(gate.cancelled) == [0, 1, 2]
        assert given == []
        with pytest.raises(StopIteration):
            next(results)

    def test_loop_that_is_left_early_leaves_no_threads(self) -> None:
        before = set(threading.enumerate())
        for found in Results(double, range(1000), 4):
            if found == 10:
                break
        gc.collect()
        for thread in set(threading.enumerate()) - before:
            thread.join(30)
            assert not thread.is_alive()

    def test_nothing_in_nothing_out(self) -> None:
        assert list(Results(double, [], 4)) == []

    def test_one_image_is_not_taken_for_several(self) -> None:
        for single in ("street.jpg", b"\xff\xd8", np.zeros((4, 4, 3), np.uint8)):
            with pytest.raises(ImageError, match="expected several images"):
                Results(double, single, 4)  # type: ignore[arg-type]

    @pytest.mark.parametrize("in_flight", [0, -1])
    def test_impossible_number_in_flight_is_refused(self, in_flight: int) -> None:
        with pytest.raises(ValueError, match="at least 1 request in flight"):
            Results(double, [1], in_flight)
        with pytest.raises(ValueError, match="at least 1 request in flight"):
            AsyncResults(double_async, [1], in_flight)


async def double_async(source: int, index: int) -> int:
    await asyncio.sleep(0.001 * (index % 3))
    return 2 * source


async def counted(count: int, taken: list[int]) -> AsyncIterator[int]:
    for source in range(count):
        taken.append(source)
        await asyncio.sleep(0)
        yield source


class TestAsyncResults:
    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_results_come_in_the_order_of_their_sources(self, asynchronous: bool) -> None:
        async def run() -> list[int]:
            sources = counted(50, []) if asynchronous else range(50)
            return [found async for found in AsyncResults(double_async, sources, 4)]

        assert asyncio.run(run()) == [2 * source for source in range(50)]

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_no_more_than_the_asked_number_is_under_way(self, asynchronous: bool) -> None:
        running, most, taken = 0, 0, list[int]()

        async def detect(source: int, _index: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return source

        async def run() -> None:
            results = AsyncResults(detect, counted(40, taken) if asynchronous else range(40), 3)
            count = 0
            async for _ in results:
                count += 1
                assert len(taken) <= count + 2 * 3
            assert count == 40

        asyncio.run(run())
        assert 1 < most <= 3

    def test_slow_request_does_not_hold_up_those_after_it(self) -> None:
        async def run() -> list[int]:
            others_answered = asyncio.Event()

            async def first_last(source: int, index: int) -> int:
                if index == 0:
                    await others_answered.wait()
                if index == 5:
                    others_answered.set()
                return 2 * source

            return [found async for found in AsyncResults(first_last, range(50), 3)]

        assert asyncio.run(asyncio.wait_for(run(), 30)) == [2 * source for source in range(50)]

    def test_pace_limits_what_is_under_way(self) -> None:
        running, most, pace = 0, 0, Pace(4)
        pace.limit = 2

        async def detect(source: int, _index: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return source

        async def run() -> list[int]:
            return [found async for found in AsyncResults(detect, range(20), 4, pace)]

        assert asyncio.run(run()) == list(range(20))
        assert most == 2

    def test_result_is_given_while_the_source_waits(self) -> None:
        async def run() -> None:
            more = asyncio.Event()

            async def camera() -> AsyncIterator[int]:
                yield 1
                await more.wait()
                yield 2

            results = AsyncResults(double_async, camera(), 4)
            assert await anext(results) == 2
            more.set()
            assert [found async for found in results] == [4]

        asyncio.run(asyncio.wait_for(run(), 30))

    def test_error_comes_at_its_place_and_the_rest_follows(self) -> None:
        async def picky(source: int, index: int) -> int:
            if source == 1:
                raise ImageError(f"image {index}: no")
            return source

        async def run() -> None:
            results = AsyncResults(picky, range(3), 2)
            assert await anext(results) == 0
            with pytest.raises(ImageError, match="image 1"):
                await anext(results)
            assert await anext(results) == 2
            with pytest.raises(StopAsyncIteration):
                await anext(results)

        asyncio.run(run())

    def test_failing_source_ends_after_what_it_gave(self) -> None:
        async def camera() -> AsyncIterator[int]:
            yield 1
            raise OSError("the camera is gone")

        async def run() -> None:
            results = AsyncResults(double_async, camera(), 4)
            assert await anext(results) == 2
            with pytest.raises(OSError, match="the camera is gone"):
                await anext(results)
            with pytest.raises(StopAsyncIteration):
                await anext(results)

        asyncio.run(run())

    def test_closing_ends_what_is_under_way(self) -> None:
        cancelled = []

        async def run() -> None:
            third_has_begun = asyncio.Event()

            async def never(source: int, index: int) -> int:
                if index == 2:
                    third_has_begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(source)
                    raise
                return source

            async with AsyncResults(never, range(100), 3) as results:
                waiting = asyncio.ensure_future(anext(results))
                await third_has_begun.wait()
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert sorted(cancelled) == [0, 1, 2]
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(run())
