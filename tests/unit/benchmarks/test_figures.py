"""benchmarks.figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Spread, Window, percentile_ms, ratios

positive = st.floats(1e-3, 1e6)


def test_throughput_counts_the_images_not_the_calls():
    window = Window(duration_s=2.0, images=12, latencies_s=(0.5, 0.5, 0.6))
    assert window.throughput_images_per_s == 6.0


@pytest.mark.parametrize(("duration_s", "images"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_window_without_time_or_with_fewer_images_than_calls_is_refused(duration_s, images):
    with pytest.raises(ValueError):
        Window(duration_s=duration_s, images=images, latencies_s=(0.1,))


def test_ratios_are_taken_turn_by_turn():
    # The machine was half as fast in the second turn.
    assert ratios([10, 5, 12], [20, 10, 20]) == Spread(median=0.5, lowest=0.5, highest=0.6)


def test_ratios_of_different_numbers_of_turns_are_refused():
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


@given(st.lists(positive, min_size=1))
def test_a_spread_lies_between_its_lowest_and_its_highest(values):
    spread = Spread.of(values)
    assert spread.lowest == min(values)
    assert spread.highest == max(values)
    assert spread.lowest <= spread.median <= spread.highest


@given(st.lists(positive, min_size=1), positive)
def test_a_machine_that_is_slower_in_each_turn_leaves_the_ratios_as_they_are(values, factor):
    slowed = ratios([value * factor for value in values], [value * 2 * factor for value in values])
    assert slowed.lowest == pytest.approx(0.5)
    assert slowed.highest == pytest.approx(0.5)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="got none"):
        Spread.of([])
    with pytest.raises(ValueError, match="got none"):
        percentile_ms([], 50)


def test_percentiles_are_in_milliseconds():
    latencies_s = [number / 1000 for number in range(1, 102)]
    assert percentile_ms(latencies_s, 50) == pytest.approx(51)
    assert percentile_ms(latencies_s, 99) == pytest.approx(100)
    assert percentile_ms([0.25], 99) == pytest.approx(250)
