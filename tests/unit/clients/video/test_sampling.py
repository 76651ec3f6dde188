"""Which frames are taken, when a camera is late, and when it is tried again."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.video.sampling import FIRST_DELAY_S, LONGEST_DELAY_S, Backoff, Lag, Sampler


@pytest.mark.parametrize(("of", "fps"), [(25, 10), (30, 10), (60, 25), (30000 / 1001, 5), (25, 1), (10, 3)])
def test_a_minute_of_video_gives_the_rate_asked_for(of: float, fps: float) -> None:
    sampler = Sampler(fps)
    taken = [number / of for number in range(round(60 * of)) if sampler.takes(number / of)]
    assert abs(len(taken) - 60 * fps) <= 1
    assert max(b - a for a, b in itertools.pairwise(taken)) < 1 / fps + 1 / of + 1e-6


def test_a_video_slower_than_the_rate_is_taken_whole() -> None:
    sampler = Sampler(30)
    assert all(sampler.takes(number / 30) for number in range(1000))
    sampler = Sampler(30)
    assert all(sampler.takes(number / 7.5) for number in range(1000))


def test_without_a_rate_every_frame_is_taken() -> None:
    assert all(Sampler(None).takes(0.0) for _ in range(3))


@given(st.lists(st.floats(0, 100), max_size=60).map(sorted), st.floats(0.1, 60))
def test_no_two_frames_are_taken_of_one_period_whatever_the_times(times: list[float], fps: float) -> None:
    sampler = Sampler(fps)
    periods = [math.floor(time_s * fps + 1e-3) for time_s in times]
    taken = [period for time_s, period in zip(times, periods, strict=True) if sampler.takes(time_s)]
    assert taken == sorted(set(periods))


def test_a_clock_that_is_set_back_does_not_stop_the_stream() -> None:
    sampler = Sampler(5)
    assert sum(sampler.takes(1000 + number / 25) for number in range(250)) == 50
    assert sum(sampler.takes(number / 25) for number in range(250)) == 50


class TestLag:
    def test_a_stream_on_time_is_read_whole(self) -> None:
        lag = Lag()
        for number in range(1000):
            lag.arrived(number / 25, 5000 + number / 25 + (number % 7) * 0.03)
            assert not lag.is_catching_up

    def test_a_reader_that_falls_behind_catches_up_and_then_reads_whole_again(self) -> None:
        lag = Lag()
        lag.arrived(0, 100)
        lag.arrived(1, 101.9)
        assert not lag.is_catching_up
        lag.arrived(2, 103.1)
        assert lag.is_catching_up
        lag.arrived(4, 104.5)
        assert lag.is_catching_up
        lag.arrived(5, 105.1)
        assert not lag.is_catching_up

    def test_a_clock_set_back_is_no_lag_for_long(self) -> None:
        lag = Lag()
        lag.arrived(0, 100)
        lates = []
        for number in range(400):
            lag.arrived(number / 25 - 5, 100 + number / 25)
            lates.append(lag.is_catching_up)
        assert lates[1]
        assert not any(lates[260:])

    def test_a_slow_clock_is_no_lag(self) -> None:
        lag = Lag()
        for second in range(100_000):
            lag.arrived(second * (1 - 100e-6), second)
            assert not lag.is_catching_up


def test_waits_grow_to_a_limit_and_begin_again_after_a_success() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay_s() for _ in range(1000)]
    for number, delay in enumerate(delays):
        limit = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(number, 20))
        assert 0.1 * limit <= delay <= limit
    assert len(set(delays)) == len(delays)
    backoff.reset()
    assert backoff.next_delay_s() <= FIRST_DELAY_S
