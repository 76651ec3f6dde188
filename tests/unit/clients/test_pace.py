"""How many requests at a time: decided by what became of those before."""

from __future__ import annotations

from clients.pace import ANSWERS_PER_STEP, Pace


def answer(pace: Pace, count: int) -> None:
    for _ in range(count):
        pace.answered()


def test_refusals_of_one_burst_cut_once() -> None:
    pace = Pace(16)
    marks = [pace.sends() for _ in range(16)]
    for mark in marks:
        pace.refused(mark)
    assert pace.limit == 8
    pace.refused(pace.sends())
    assert pace.limit == 4


def test_one_request_is_always_allowed() -> None:
    pace = Pace(2)
    for _ in range(10):
        pace.refused(pace.sends())
    assert pace.limit == 1


def test_answers_bring_it_back_slowly_and_never_beyond_the_most() -> None:
    pace = Pace(4)
    pace.refused(pace.sends())
    answer(pace, 2 * ANSWERS_PER_STEP - 1)
    assert pace.limit == 2
    answer(pace, 1)
    assert pace.limit == 3
    answer(pace, 1000)
    assert pace.limit == 4


def test_refusal_begins_the_count_of_answers_again() -> None:
    pace = Pace(4)
    pace.refused(pace.sends())
    answer(pace, 2 * ANSWERS_PER_STEP - 1)
    pace.refused(pace.sends())
    answer(pace, ANSWERS_PER_STEP - 1)
    assert pace.limit == 1
