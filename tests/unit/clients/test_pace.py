"""How many requests at a time: decided by what became of those before."""

from __future__ import annotations

from clients.pace import ANSWERS_PER_STEP, Pace


def sent(pace: Pace) -> int:
    mark = pace.send()
    assert mark is not None
    return mark


def refuse(pace: Pace) -> None:
    pace.ended(sent(pace), answered=False, refused=True)


def answer(pace: Pace, count: int) -> None:
    for _ in range(count):
        pace.ended(sent(pace), answered=True, refused=False)


def test_refusals_of_one_burst_cut_once() -> None:
    pace = Pace(16)
    for mark in [sent(pace) for _ in range(16)]:
        pace.ended(mark, answered=False, refused=True)
    assert pace.limit == 8
    refuse(pace)
    assert pace.limit == 4


def test_no_more_are_sent_than_the_limit_until_others_end() -> None:
    pace = Pace(3)
    marks = [sent(pace) for _ in range(3)]
    assert pace.send() is None
    pace.ended(marks[0], answered=False, refused=True)
    # The limit is 1 now, and two are still under way.
    assert pace.send() is None
    for mark in marks[1:]:
        pace.ended(mark, answered=True, refused=False)
    assert pace.send() is not None


def test_one_request_is_always_allowed() -> None:
    pace = Pace(2)
    for _ in range(10):
        refuse(pace)
    assert pace.limit == 1


def test_answers_bring_it_back_and_never_beyond_the_most() -> None:
    pace = Pace(4)
    refuse(pace)
    answer(pace, 2 * ANSWERS_PER_STEP - 1)
    assert pace.limit == 2
    answer(pace, 1)
    assert pace.limit == 3
    answer(pace, 1000)
    assert pace.limit == 4


def test_refusal_begins_the_count_of_answers_again() -> None:
    pace = Pace(4)
    refuse(pace)
    answer(pace, 2 * ANSWERS_PER_STEP - 1)
    refuse(pace)
    answer(pace, ANSWERS_PER_STEP - 1)
    assert pace.limit == 1


def test_what_fails_otherwise_changes_nothing() -> None:
    pace = Pace(4)
    for _ in range(100):
        pace.ended(sent(pace), answered=False, refused=False)
    assert pace.limit == 4
