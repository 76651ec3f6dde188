"""When a request is sent again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.errors import (
    ClientError,
    ContractError,
    DeadlineExceededError,
    InferenceError,
    QueueFullError,
    ServerUnavailableError,
)
from clients.retry import RetryPolicy


def error(kind: type[ClientError], *, not_accepted: bool) -> ClientError:
    made = kind("no")
    made.not_accepted = not_accepted
    return made


@pytest.mark.parametrize(
    "kind", [ServerUnavailableError, DeadlineExceededError, InferenceError, QueueFullError, ContractError]
)
def test_what_may_have_been_taken_is_never_sent_again(kind: type[ClientError]) -> None:
    assert RetryPolicy(attempts=100).pause_s(1, error(kind, not_accepted=False), 1000, 0.5) is None
    assert kind("no").not_accepted is False


@given(
    failures=st.integers(1, 2000),
    remaining_s=st.floats(-1, 100),
    chance=st.floats(0, 1),
    attempts=st.integers(1, 3000),
    first_pause_s=st.floats(0, 10),
    longest_pause_s=st.floats(0, 10),
)
def test_pause_stays_below_its_ceiling_and_within_the_callers_time(
    failures: int, remaining_s: float, chance: float, attempts: int, first_pause_s: float, longest_pause_s: float
) -> None:
    policy = RetryPolicy(attempts=attempts, first_pause_s=first_pause_s, longest_pause_s=longest_pause_s)
    pause_s = policy.pause_s(failures, error(ServerUnavailableError, not_accepted=True), remaining_s, chance)
    if failures >= attempts:
        assert pause_s is None
    if pause_s is None:
        assert failures >= attempts or remaining_s <= longest_pause_s
    else:
        assert 0 <= pause_s <= longest_pause_s
        # 2.0**1024 is beyond a float.
        assert pause_s <= first_pause_s * 2.0 ** min(failures - 1, 1000)
        assert pause_s < remaining_s


def test_ceiling_doubles_until_the_longest_pause() -> None:
    policy = RetryPolicy(attempts=10, first_pause_s=1, longest_pause_s=5)
    refused = error(ServerUnavailableError, not_accepted=True)
    assert [policy.pause_s(failures, refused, 100, 1.0) for failures in range(1, 6)] == [1, 2, 4, 5, 5]
    assert [policy.pause_s(failures, refused, 100, 0.0) for failures in range(1, 4)] == [0, 0, 0]


@pytest.mark.parametrize(
    "numbers",
    [{"attempts": 0}, {"first_pause_s": -1.0}, {"longest_pause_s": float("nan")}, {"longest_pause_s": float("inf")}],
)
def test_impossible_numbers_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RetryPolicy(**numbers)  # type: ignore[arg-type]
