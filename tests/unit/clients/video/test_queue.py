"""The queue between readers and requests: nothing is lost from the accounts, nothing waits longer than it must."""

from __future__ import annotations

import threading

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clients.video.queue import FrameQueue, Ticket

SOURCES = 3
IN_FLIGHT = 2
source_numbers = st.integers(0, SOURCES - 1)


class Queue(RuleBasedStateMachine):
    """Any order of calls, beside a plain model of what should be waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FrameQueue[int] = FrameQueue([0] * SOURCES, IN_FLIGHT)
        self.waiting: list[int | None] = [None] * SOURCES
        self.flying: list[Ticket[int]] = []
        self.answered: list[Ticket[int]] = []
        self.newest = 0
        self.captured = 0
        self.replaced = 0
        self.stopped = False

    @rule(source=source_numbers)
    def offer(self, source: int) -> None:
        self.newest += 1
        assert self.queue.offer(source, self.newest) is not self.stopped
        if not self.stopped:
            self.captured += 1
            self.replaced += self.waiting[source] is not None
            self.waiting[source] = self.newest

    def free(self) -> list[int]:
        held = [ticket.source for ticket in self.flying + self.answered]
        return [
            source for source in range(SOURCES) if self.waiting[source] is not None and held.count(source) < IN_FLIGHT
        ]

    @precondition(lambda self: self.free() or self.stopped)
    @rule()
    def take(self) -> None:
        ticket = self.queue.take()
        if self.stopped:
            assert ticket is None
            return
        assert ticket is not None
        assert ticket.source in self.free()
        assert ticket.frame == self.waiting[ticket.source]
        self.waiting[ticket.source] = None
        self.flying.append(ticket)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        ticket = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if fails:
            self.queue.failed(ticket)
        else:
            self.queue.answered(ticket, 0.01)
        self.answered.append(ticket)

    @precondition(lambda self: self.answered)
    @rule()
    def release(self) -> None:
        self.queue.release(self.answered.pop())

    @precondition(lambda self: not self.stopped)
    @rule()
    def stop(self) -> None:
        self.queue.stop()
        self.stopped = True
        self.replaced += sum(frame is not None for frame in self.waiting)
        self.waiting = [None] * SOURCES

    @invariant()
    def accounts_are_exact(self) -> None:
        views = self.queue.views()
        assert sum(view.captured for view in views) == self.captured
        assert sum(view.dropped for view in views) == self.replaced
        pending = len(self.flying) + sum(frame is not None for frame in self.waiting)
        assert sum(view.pending for view in views) == pending


TestAnyOrderOfCalls = Queue.TestCase
TestAnyOrderOfCalls.settings = settings(max_examples=100, deadline=None)


def taken(queue: FrameQueue[str]) -> str:
    ticket = queue.take()
    assert ticket is not None
    return ticket.frame


def test_what_is_sent_is_always_the_newest() -> None:
    queue: FrameQueue[str] = FrameQueue([0], 1)
    for number in range(100):
        queue.offer(0, f"frame {number}")
    assert taken(queue) == "frame 99"
    assert queue.views()[0].dropped == 99


def test_the_highest_priority_goes_first_and_none_goes_last() -> None:
    queue: FrameQueue[str] = FrameQueue([0, 2, 1], 9)
    for source, frame in enumerate(("none", "second", "first")):
        queue.offer(source, frame)
    assert [taken(queue) for _ in range(3)] == ["first", "second", "none"]


def test_equal_sources_take_turns() -> None:
    queue: FrameQueue[str] = FrameQueue([0, 0, 0], 99)
    order = []
    for _ in range(12):
        for source in range(3):
            queue.offer(source, str(source))
        order.append(taken(queue))
    assert {name: order.count(name) for name in "012"} == {"0": 4, "1": 4, "2": 4}


def test_a_source_with_much_in_flight_gives_way() -> None:
    queue: FrameQueue[str] = FrameQueue([0, 0], 99)
    for _ in range(5):
        queue.offer(0, "busy")
        taken(queue)
    queue.offer(0, "busy")
    queue.offer(1, "idle")
    assert taken(queue) == "idle"


def test_tickets_of_a_source_are_numbered_in_the_order_of_capture() -> None:
    queue: FrameQueue[int] = FrameQueue([0], 99)
    tickets = []
    for number in range(10):
        queue.offer(0, number)
        tickets.append(queue.take())
    assert [(t.sequence, t.frame) for t in tickets if t] == [(n, n) for n in range(10)]


def test_put_waits_for_room_and_drops_nothing() -> None:
    queue: FrameQueue[int] = FrameQueue([0], 99)

    def produce() -> None:
        for number in range(200):
            assert queue.put(0, number)
        queue.end(0)

    producer = threading.Thread(target=produce)
    producer.start()
    frames = []
    while (ticket := queue.take()) is not None:
        frames.append(ticket.frame)
        queue.answered(ticket, 0.0)
        queue.release(ticket)
    producer.join()
    assert frames == list(range(200))
    assert (queue.views()[0].captured, queue.views()[0].dropped) == (200, 0)


def test_stopping_wakes_whoever_waits() -> None:
    queue: FrameQueue[int] = FrameQueue([0, 0], 1)
    assert queue.put(0, 1)
    results: list[object] = []
    waiting = [
        threading.Thread(target=lambda: results.append(queue.put(0, 2))),
        threading.Thread(target=lambda: [results.append(queue.take()) for _ in range(2)]),
    ]
    waiting[0].start()
    queue.stop()
    waiting[1].start()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()
    assert results.count(False) == 1
    assert results.count(None) == 2
    assert queue.views()[0].dropped == queue.views()[0].captured == 1


def test_the_last_frame_of_a_source_that_ended_is_still_sent() -> None:
    queue: FrameQueue[str] = FrameQueue([0, 0], 1)
    queue.offer(0, "last")
    queue.end(0)
    queue.end(1)
    assert taken(queue) == "last"
    assert queue.take() is None
