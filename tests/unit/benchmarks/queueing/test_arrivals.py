"""When requests come."""

import numpy as np
import pytest

from benchmarks.queueing.arrivals import cameras, constant, poisson


def rng():
    return np.random.default_rng(0)


def test_constant_arrivals_are_evenly_apart():
    np.testing.assert_allclose(constant(4, 1.5), [0, 0.25, 0.5, 0.75, 1.0, 1.25])


def test_poisson_arrivals_have_their_rate_and_gaps_as_long_as_their_spread():
    arrivals_s = poisson(100, 500, rng())
    gaps_s = np.diff(arrivals_s)
    assert len(arrivals_s) / 500 == pytest.approx(100, rel=0.02)
    assert (gaps_s >= 0).all()
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1, rel=0.02)


def test_cameras_without_jitter_are_periodic_with_phases_of_their_own():
    arrivals_s = cameras(streams=8, fps=10, jitter_s=0, duration_s=5, rng=rng())
    assert len(arrivals_s) == 400
    in_turns = arrivals_s.reshape(50, 8)
    np.testing.assert_allclose(np.diff(in_turns, axis=0), 0.1)
    assert np.unique(in_turns[0]).size == 8


def test_jitter_moves_frames_but_loses_none():
    still = cameras(streams=8, fps=10, jitter_s=0, duration_s=5, rng=rng())
    moved = cameras(streams=8, fps=10, jitter_s=0.01, duration_s=5, rng=rng())
    assert len(moved) == len(still)
    assert (np.diff(moved) >= 0).all()
    assert moved.min() >= 0
    assert moved.max() <= 5
    # In every period the same number of frames, give or take those at its edges: smoother than Poisson arrivals.
    per_period = np.histogram(moved, bins=50, range=(0, 5))[0]
    assert per_period.var() < 0.5 * per_period.mean()


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_rates_and_durations_that_are_none_are_refused(wrong):
    for arrivals in (
        lambda: constant(*wrong),
        lambda: poisson(*wrong, rng()),
        lambda: cameras(1, wrong[0], 0, wrong[1], rng()),
    ):
        with pytest.raises(ValueError, match="expected"):
            arrivals()
    with pytest.raises(ValueError, match="stream"):
        cameras(0, 10, 0, 1, rng())
