"""Two versions on one GPU: alone a version is served as the batcher's own simulation says, together they share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.two_versions import simulate_versions
from benchmarks.queueing.arrivals import poisson
from benchmarks.queueing.batcher import Answers, Batcher, simulate
from benchmarks.queueing.service import ServiceTimes

SERVICE = ServiceTimes.from_measured({1: 0.01, 8: 0.03})

batchers = st.builds(
    Batcher,
    max_batch=st.integers(1, 8),
    delay_s=st.sampled_from([0.0, 0.002]),
    instances=st.integers(1, 3),
    queue_limit=st.sampled_from([0, 4]),
    timeout_s=st.sampled_from([0.0, 0.02]),
    slowdown=st.sampled_from([0.0, 0.3, 1.0]),
)


@settings(max_examples=40)
@given(batchers, st.floats(20, 400), st.integers(0, 1000))
def test_a_version_alone_is_served_as_by_the_batcher(batcher, rate, seed):
    arrivals_s = poisson(rate, 2.0, np.random.default_rng(seed))
    (latency_s,) = simulate_versions(batcher, SERVICE, [arrivals_s])
    np.testing.assert_allclose(latency_s, simulate(batcher, SERVICE, arrivals_s).latency_s, atol=1e-9)


@settings(max_examples=20)
@given(batchers, st.integers(0, 1000))
def test_every_request_of_both_is_answered_where_nothing_refuses(batcher, seed):
    rng = np.random.default_rng(seed)
    unbounded = Batcher(max_batch=batcher.max_batch, instances=batcher.instances, slowdown=batcher.slowdown)
    arrivals_s = [poisson(30, 2.0, rng), poisson(10, 2.0, rng)]
    for latency_s, each in zip(simulate_versions(unbounded, SERVICE, arrivals_s), arrivals_s, strict=True):
        assert latency_s.shape == each.shape
        assert (latency_s >= 0.01 * (1 - 1e-9)).all()


def test_two_that_run_at_once_take_twice_as_long_on_a_gpu_of_one_instance():
    together = simulate_versions(Batcher(max_batch=1), SERVICE, [np.array([0.0]), np.array([0.0])])
    assert [each.tolist() for each in together] == [[pytest.approx(0.02)], [pytest.approx(0.02)]]
    apart = simulate_versions(Batcher(max_batch=1), SERVICE, [np.array([0.0]), np.array([0.05])])
    assert [each.tolist() for each in apart] == [[pytest.approx(0.01)], [pytest.approx(0.01)]]


def test_two_versions_get_no_more_done_than_one_with_all_its_instances():
    # Two instances that do not slow each other down: four executions share what two get done.
    batcher = Batcher(max_batch=1, instances=2)
    at_once = [np.zeros(2), np.zeros(2)]
    together = simulate_versions(batcher, SERVICE, at_once)
    assert np.concatenate(together).tolist() == pytest.approx([0.02] * 4)


def test_no_batch_holds_requests_of_two_versions():
    batcher = Batcher(max_batch=8)
    one = simulate_versions(batcher, SERVICE, [np.zeros(8)])
    halves = simulate_versions(batcher, SERVICE, [np.zeros(4), np.zeros(4)])
    assert max(map(np.max, halves)) > one[0].max()


def test_a_backend_that_answers_image_by_image_is_refused():
    with pytest.raises(ValueError, match="together"):
        simulate_versions(Batcher(max_batch=2, answers=Answers.EACH), SERVICE, [])
