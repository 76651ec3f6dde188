"""The simulated batcher: cases worked by hand, theory where it applies, and what holds for every load."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.queueing import closed_forms
from benchmarks.queueing.arrivals import constant, poisson
from benchmarks.queueing.batcher import Answers, Batcher, simulate, simulate_closed
from benchmarks.queueing.service import ServiceTimes

SERVICE = ServiceTimes.from_measured({1: 0.010, 4: 0.016, 8: 0.024})


def latencies_ms(batcher, arrivals_s, service=SERVICE):
    served = simulate(batcher, service, np.array(arrivals_s, float))
    return [round(each * 1e3, 6) for each in served.latency_s.tolist()], served.executions.tolist()


def test_what_waits_when_an_instance_gets_free_runs_as_one_batch():
    # The first runs alone from 0 to 10 ms; the three that came meanwhile then take 14 ms together.
    assert latencies_ms(Batcher(max_batch=8), [0, 0.002, 0.004, 0.010]) == ([10, 22, 20, 14], [1, 3])


def test_no_batch_is_larger_than_the_largest():
    assert latencies_ms(Batcher(max_batch=2), [0, 0.001, 0.001, 0.001]) == ([10, 21, 21, 31], [1, 2, 1])


def test_a_request_waits_for_company_until_its_delay_is_over_or_the_batch_is_full():
    batcher = Batcher(max_batch=4, delay_s=0.005)
    assert latencies_ms(batcher, [0, 0.003, 0.006]) == ([17, 14, 21], [2, 1])
    assert latencies_ms(batcher, [0, 0.001, 0.002, 0.003]) == ([19, 18, 17, 16], [4])


def test_delay_counts_from_the_arrival_not_from_a_free_instance():
    # The second has waited its 5 ms when the instance gets free at 15.
    assert latencies_ms(Batcher(max_batch=4, delay_s=0.005), [0, 0.006]) == ([15, 19], [1, 1])


def test_two_instances_that_share_one_machine_do_together_what_one_does():
    # Alone until 5 ms, then both at half speed until the first's other half is done, at 15; the second's ends at 20.
    batcher = Batcher(max_batch=1, instances=2, slowdown=1.0)
    assert latencies_ms(batcher, [0, 0.005]) == ([15, 15], [1, 1])
    batcher = Batcher(max_batch=1, instances=2, slowdown=0.0)
    assert latencies_ms(batcher, [0, 0.005, 0.006]) == ([10, 10, 14], [1, 1, 1])


def test_answers_of_each_come_one_after_the_other():
    batcher = Batcher(max_batch=4, answers=Answers.EACH)
    served, executions = latencies_ms(batcher, [0, 0, 0, 0, 0])
    assert served == [10, 12, 14, 16, 26]
    assert executions == [4, 1]


def test_requests_beyond_the_queue_or_its_timeout_are_lost():
    lost = math.nan
    served, executions = latencies_ms(Batcher(max_batch=1, queue_limit=1), [0, 0.001, 0.002, 0.011])
    np.testing.assert_equal(served, [10, 19, lost, 19])
    assert executions == [1, 1, 1]
    served, executions = latencies_ms(Batcher(max_batch=1, timeout_s=0.015), [0, 0.001, 0.002, 0.021])
    np.testing.assert_equal(served, [10, 19, lost, 10])
    # A place in the queue is free again when who held it is lost, or has begun.
    batcher = Batcher(max_batch=1, queue_limit=1, timeout_s=0.004)
    served, _ = latencies_ms(batcher, [0, 0, 0.001, 0.008])
    np.testing.assert_equal(served, [10, lost, lost, 12])


def test_clients_send_when_they_are_answered():
    served = simulate_closed(Batcher(max_batch=4), SERVICE, concurrency=4, requests=12, client_s=0.002)
    np.testing.assert_allclose(served.arrivals_s, np.repeat([0, 0.018, 0.036], 4))
    np.testing.assert_allclose(served.latency_s, 0.016)
    assert served.executions.tolist() == [4, 4, 4]
    assert served.busy_s == pytest.approx(3 * 0.016)


def test_clients_that_are_refused_send_again():
    batcher = Batcher(max_batch=1, queue_limit=1, timeout_s=0.001)
    served = simulate_closed(batcher, SERVICE, concurrency=3, requests=50, client_s=0.001)
    assert len(served.latency_s) == len(served.arrivals_s) == 50
    assert 0 < served.lost < 50
    assert (np.diff(served.arrivals_s) >= 0).all()


@pytest.mark.parametrize("utilization", [0.3, 0.6, 0.8, 0.9])
def test_one_instance_without_batches_is_within_10_percent_of_m_d_1(utilization):
    service_s, requests = 0.02, 200_000
    rate = utilization / service_s
    arrivals_s = poisson(rate, requests / rate, np.random.default_rng(1))
    served = simulate(Batcher(max_batch=1), lambda _: service_s, arrivals_s)
    assert served.latency_s.mean() - service_s == pytest.approx(closed_forms.md1_mean_wait_s(rate, service_s), rel=0.1)
    for percent in (50, 90, 99):
        wanted = service_s + closed_forms.md1_wait_percentile_s(rate, service_s, percent)
        assert served.percentile_s(percent) == pytest.approx(wanted, rel=0.1)
    assert served.busy_s == pytest.approx(len(arrivals_s) * service_s)


@pytest.mark.parametrize(("servers", "utilization"), [(1, 0.7), (2, 0.8), (4, 0.85), (8, 0.6)])
def test_instances_with_random_times_are_within_10_percent_of_m_m_c(servers, utilization):
    mean_s, requests = 0.02, 200_000
    rng = np.random.default_rng(2)
    rate = utilization * servers / mean_s
    arrivals_s = poisson(rate, requests / rate, rng)
    drawn_s = iter(rng.exponential(mean_s, len(arrivals_s)).tolist())
    times_s = []

    def service(batch):
        times_s.append(next(drawn_s))
        return times_s[-1]

    served = simulate(Batcher(max_batch=1, instances=servers), service, arrivals_s)
    # First come, first served: the i-th request has the i-th time.
    waits_s = np.maximum(served.latency_s - np.array(times_s), 0)
    assert waits_s.mean() == pytest.approx(closed_forms.mmc_mean_wait_s(rate, mean_s, servers), rel=0.1)
    assert (waits_s > 1e-9).mean() == pytest.approx(closed_forms.mmc_waits(rate, mean_s, servers), rel=0.1)
    wanted = closed_forms.mmc_wait_percentile_s(rate, mean_s, servers, 99)
    assert np.percentile(waits_s, 99) == pytest.approx(wanted, rel=0.1)


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 0.05), min_size=1, max_size=80),
    max_batch=st.integers(1, 8),
    instances=st.integers(1, 4),
    delay_s=st.sampled_from([0.0, 0.001, 0.02]),
    queue_limit=st.sampled_from([0, 1, 5]),
    timeout_s=st.sampled_from([0.0, 0.01, 0.05]),
    slowdown=st.sampled_from([0.0, 0.4, 1.0]),
    answers=st.sampled_from(Answers),
)
def test_every_request_is_answered_once_or_lost(gaps, answers, **settings_of_batcher):
    arrivals_s = np.cumsum(gaps)
    batcher = Batcher(answers=answers, **settings_of_batcher)
    served = simulate(batcher, SERVICE, arrivals_s)
    assert served.executions.sum() + served.lost == len(arrivals_s)
    assert served.executions.max(initial=0) <= batcher.max_batch
    answered = served.latency_s[~np.isnan(served.latency_s)]
    assert (answered >= SERVICE(1) - 1e-9).all()
    if not batcher.queue_limit and not batcher.timeout_s:
        assert served.lost == 0
    # No instance is idle while a full batch waits: all the work ends by then.
    if served.lost == 0:
        work_s = sum(map(SERVICE, served.executions.tolist())) * (1 + batcher.slowdown * (batcher.instances - 1))
        longest_wait_s = len(arrivals_s) * batcher.delay_s
        assert (arrivals_s + served.latency_s).max() <= arrivals_s[-1] + work_s + longest_wait_s + 1e-9


def test_a_bound_that_is_never_reached_changes_nothing():
    arrivals_s = poisson(150, 5, np.random.default_rng(3))
    free = simulate(Batcher(max_batch=8), SERVICE, arrivals_s)
    bound = simulate(Batcher(max_batch=8, queue_limit=10_000, timeout_s=1e6), SERVICE, arrivals_s)
    np.testing.assert_array_equal(free.latency_s, bound.latency_s)


def test_a_load_above_what_can_be_served_is_refused_down_to_it():
    arrivals_s = constant(1000, 10)
    served = simulate(Batcher(max_batch=8, queue_limit=16), SERVICE, arrivals_s)
    answered = len(arrivals_s) - served.lost
    assert answered / 10 == pytest.approx(8 / SERVICE(8), rel=0.02)
    # Three batches at most lie before a request: one that runs, and two that wait.
    assert np.nanmax(served.latency_s) <= 3 * SERVICE(8) + 1e-9


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"instances": 0}, {"delay_s": -1}, {"queue_limit": -1}])
def test_what_is_no_configuration_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Batcher(**{"max_batch": 1, **wrong})


def test_what_is_no_load_is_refused():
    with pytest.raises(ValueError, match="sorted"):
        simulate(Batcher(max_batch=1), SERVICE, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="concurrency"):
        simulate_closed(Batcher(max_batch=1), SERVICE, concurrency=4, requests=3)


def test_nothing_comes_of_nothing():
    served = simulate(Batcher(max_batch=1), SERVICE, np.array([]))
    assert served.lost == 0
    assert math.isnan(served.percentile_s(99))
    assert math.isnan(served.mean_batch)
