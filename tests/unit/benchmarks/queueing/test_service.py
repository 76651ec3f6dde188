"""Service times between, below and beyond what was measured."""

import math

import pytest

from benchmarks.queueing.service import LARGEST_TABLED, ServiceTimes


def test_times_are_on_straight_lines_between_and_on_the_last_one_beyond():
    service = ServiceTimes.from_measured({8: 0.030, 2: 0.010, 4: 0.018})
    seconds = {1: 0.010, 2: 0.010, 3: 0.014, 4: 0.018, 6: 0.024, 8: 0.030, 16: 0.054}
    assert {batch: service(batch) for batch in seconds} == pytest.approx(seconds)
    assert service(10 * LARGEST_TABLED) == pytest.approx(0.030 + (10 * LARGEST_TABLED - 8) * 0.003)


def test_one_measured_batch_gives_times_in_proportion():
    service = ServiceTimes.from_measured({4: 0.02})
    assert [service(batch) for batch in (1, 4, 8)] == pytest.approx([0.02, 0.02, 0.04])


def test_noise_never_leads_below_the_last_measured_time():
    service = ServiceTimes.from_measured({1: 0.0101, 2: 0.0100})
    assert service(2000) == pytest.approx(0.0100)


def test_a_slower_machine_takes_longer_everywhere():
    service = ServiceTimes.from_measured({1: 0.01, 8: 0.03})
    assert [service.scaled(2)(batch) for batch in (1, 8, 9)] == pytest.approx(
        [2 * service(batch) for batch in (1, 8, 9)]
    )


@pytest.mark.parametrize("wrong", [{}, {0: 0.01}, {1: 0.0}, {1: math.nan}, {1: math.inf}])
def test_what_is_no_measurement_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        ServiceTimes.from_measured(wrong)


def test_a_batch_below_one_is_refused():
    with pytest.raises(ValueError, match="batch from 1"):
        ServiceTimes.from_measured({1: 0.01})(0)
