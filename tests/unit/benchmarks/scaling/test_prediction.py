"""The formulas that eight and 64 workers are predicted by."""

from __future__ import annotations

import pytest

from benchmarks.scaling.links import (
    PRESETS,
    Link,
    find_link,
    measured_link,
    ring_all_reduce_s,
    small_all_reduce_s,
)
from benchmarks.scaling.prediction import Workload, predict
from builder.errors import SpecError

ETHERNET = Link(name="25GbE", gbit_per_s=25.0, latency_us=14.0)


def test_ring_all_reduce_is_that_of_the_worked_example() -> None:
    # 10.5 MB at 3.125 GB/s are 3.36 ms; 2 * 7/8 of them, and 14 hops of 14 us.
    assert ring_all_reduce_s(ETHERNET, 8, 10.5e6) == pytest.approx(2 * 7 / 8 * 3.36e-3 + 14 * 14e-6)
    assert ring_all_reduce_s(ETHERNET, 8, 10.5e6) == pytest.approx(6.076e-3)


def test_ring_sends_all_bytes_twice_at_most_however_many_take_part() -> None:
    still = Link(name="", gbit_per_s=8.0, latency_us=1e-9)
    assert ring_all_reduce_s(still, 2, 1e9) == pytest.approx(1.0)
    assert ring_all_reduce_s(still, 1000, 1e9) == pytest.approx(2.0, rel=0.01)


def test_small_all_reduce_goes_up_and_down_a_tree() -> None:
    assert small_all_reduce_s(ETHERNET, 2) == pytest.approx(28e-6)
    assert small_all_reduce_s(ETHERNET, 8) == pytest.approx(84e-6)
    assert small_all_reduce_s(ETHERNET, 9) == pytest.approx(112e-6)


def test_measured_link_gives_the_times_that_it_was_measured_by() -> None:
    link = measured_link("here", 4, small_s=120e-6, large_s=9e-3, large_bytes=5_000_000)
    assert ring_all_reduce_s(link, 4, 5_000_000) == pytest.approx(9e-3)
    assert ring_all_reduce_s(link, 4, 0) == pytest.approx(120e-6)


def test_link_that_is_not_known_names_those_that_are() -> None:
    assert find_link("100gbe") is PRESETS["100gbe"]
    with pytest.raises(SpecError, match=r"--link 10GbE: expected one of nvlink, pcie4, 100GbE, 25GbE"):
        find_link("10GbE")


WORKLOAD = Workload(step_s={4: 0.1, 2: 0.06}, backward_share=0.5, gradient_bytes=10_500_000, small_exchanges=161)


def test_step_of_eight_workers_is_the_step_of_one_and_what_is_exchanged() -> None:
    predicted = predict(WORKLOAD, ETHERNET, 8, 4)
    assert predicted.longest_s == pytest.approx(0.1 + 161 * 84e-6 + 6.076e-3)
    # Backward lasts 50 ms: all of the gradients' travel hides, what batch norm waits for does not.
    assert predicted.shortest_s == pytest.approx(0.1 + 161 * 84e-6)
    low, high = predicted.efficiency(one_worker_images_per_s=40.0)
    assert low == pytest.approx(0.1 / predicted.longest_s)
    assert high == pytest.approx(0.1 / predicted.shortest_s)
    assert predicted.communication[1] == pytest.approx(1 - low)


def test_no_more_hides_than_backward_lasts() -> None:
    slow = Link(name="", gbit_per_s=0.5, latency_us=14.0)
    predicted = predict(WORKLOAD, slow, 8, 4)
    assert predicted.gradients_s > 0.05
    assert predicted.hidden_s == pytest.approx(0.05)


def test_one_worker_exchanges_nothing() -> None:
    predicted = predict(WORKLOAD, ETHERNET, 1, 4)
    assert predicted.longest_s == predicted.shortest_s == pytest.approx(0.1)
    assert predicted.efficiency(40.0) == (pytest.approx(1.0), pytest.approx(1.0))


def test_step_of_fewer_images_lies_on_the_line_through_what_was_measured() -> None:
    assert WORKLOAD.step_of(3) == pytest.approx(0.08)
    assert WORKLOAD.step_of(1) == pytest.approx(0.04)
    # A line that noise has tilted is not followed below what the images take.
    steep = Workload(step_s={4: 0.1, 2: 0.04}, backward_share=0.5, gradient_bytes=1, small_exchanges=1)
    assert steep.step_of(1) == pytest.approx(0.02)
