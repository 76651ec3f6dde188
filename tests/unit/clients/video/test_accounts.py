"""Latency histograms and rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.video.accounts import GROWTH, LOWEST_S, Account, AccountView, Latencies, Rate


@given(st.lists(st.floats(LOWEST_S, 100), min_size=1, max_size=200), st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_is_at_most_a_bucket_too_high(latencies_s: list[float], percent: int) -> None:
    histogram = Latencies()
    for latency_s in latencies_s:
        histogram.add(latency_s)
    exact = sorted(latencies_s)[math.ceil(len(latencies_s) * percent / 100) - 1]
    found = histogram.percentile_s(percent)
    assert found is not None
    assert exact * (1 - 1e-9) <= found <= exact * GROWTH * (1 + 1e-9)


def test_without_a_value_there_is_no_percentile() -> None:
    assert Latencies().percentile_s(50) is None


def test_what_is_beyond_the_histogram_is_counted() -> None:
    histogram = Latencies()
    histogram.add(0.0)
    histogram.add(1e6)
    assert histogram.percentile_s(50) == LOWEST_S
    assert histogram.percentile_s(100) is not None
    assert sum(histogram.counts) == 2
    assert histogram.longest_s == 1e6


@given(st.lists(st.floats(0.001, 10), max_size=50), st.lists(st.floats(0.001, 10), max_size=50))
def test_merged_histograms_are_that_of_all_values(one: list[float], other: list[float]) -> None:
    def of(values: list[float]) -> Latencies:
        histogram = Latencies()
        for value in values:
            histogram.add(value)
        return histogram

    merged = of(one)
    merged.merge(of(other))
    whole = of(one + other)
    assert merged.counts == whole.counts
    assert merged.longest_s == whole.longest_s
    assert np.isclose(merged.sum_s, whole.sum_s)


def test_the_rate_is_that_of_the_last_whole_seconds() -> None:
    rate = Rate()
    assert rate.per_second(0.0) == 0
    for number in range(1000):
        rate.add(100 + number / 20)
    assert rate.per_second(150.0) == pytest.approx(20)
    assert rate.per_second(155.0) == pytest.approx(10)
    assert rate.per_second(161.0) == 0


def test_the_rate_of_a_long_run_keeps_nothing_old() -> None:
    rate = Rate()
    for second in range(10_000):
        rate.add(float(second))
    assert len(rate._by_second) < 20


def test_the_total_is_the_sum_of_the_streams() -> None:
    accounts = [Account(captured=7, answered=3, dropped=2, failed=1), Account(captured=5, answered=5)]
    accounts[0].latencies.add(0.5)
    total = AccountView.total(AccountView.of(account, 0.0) for account in accounts)
    assert (total.captured, total.answered, total.dropped, total.failed, total.pending) == (12, 8, 2, 1, 1)
    assert sum(total.latencies.counts) == 1
