"""What is learnt from measured trials about others."""

import math

import pytest

from benchmarks.tune.residuals import LATENCY, THROUGHPUT, Residuals
from benchmarks.tune.space import Trial
from builder.serving import ServingSettings


def trial(batch, instances=1, clients=None):
    settings = ServingSettings(max_batch=batch, instances=instances, max_queue_delay_us=0)
    return Trial(settings=settings, clients=clients or 2 * batch * instances)


def test_a_measured_trial_is_known_but_for_its_noise():
    residuals = Residuals(THROUGHPUT, [trial(4)], [math.log(0.9)])
    (log,), (deviation,) = residuals.at([trial(4)])
    assert log == pytest.approx(math.log(0.9), rel=0.1)
    assert deviation < 1.5 * THROUGHPUT.noise


def test_those_that_are_alike_are_corrected_more_and_doubted_less():
    residuals = Residuals(LATENCY, [trial(4)], [math.log(1.3)])
    logs, deviations = residuals.at([trial(4), trial(8), trial(64, instances=4, clients=16)])
    assert logs[0] > logs[1] > logs[2] > 0
    assert deviations[0] < deviations[1] < deviations[2] <= LATENCY.model


def test_measurements_that_agree_are_believed_and_those_that_differ_are_averaged():
    agreed = Residuals(THROUGHPUT, [trial(4), trial(8), trial(16)], [0.05] * 3)
    assert agreed.at([trial(8)])[0][0] == pytest.approx(0.05, rel=0.05)
    split = Residuals(THROUGHPUT, [trial(4), trial(4)], [0.1, -0.1])
    assert split.at([trial(4)])[0][0] == pytest.approx(0, abs=1e-9)
