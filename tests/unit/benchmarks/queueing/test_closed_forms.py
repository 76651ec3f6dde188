"""The closed forms against figures that others have worked out, and against each other."""

import math

import pytest

from benchmarks.queueing import closed_forms as forms


def test_erlang_c_has_its_published_values():
    # 2 servers at 1 erlang: 1/3. 1 server: its utilization. 10 servers at 8 erlang: 0.4092 (Erlang C tables).
    assert forms.mmc_waits(1, 1, 2) == pytest.approx(1 / 3)
    assert forms.mmc_waits(0.7, 1, 1) == pytest.approx(0.7)
    assert forms.mmc_waits(8, 1, 10) == pytest.approx(0.4092, abs=1e-4)


def test_one_exponential_server_is_m_m_1():
    assert forms.mmc_mean_wait_s(8, 0.1, 1) == pytest.approx(0.8 * 0.1 / 0.2)
    percentile_s = forms.mmc_wait_percentile_s(8, 0.1, 1, 99)
    assert 0.8 * math.exp(-(10 - 8) * percentile_s) == pytest.approx(0.01)
    assert forms.mmc_wait_percentile_s(1, 0.1, 1, 50) == 0.0


def test_m_d_1_waits_half_as_long_as_m_m_1():
    assert forms.md1_mean_wait_s(8, 0.1) == pytest.approx(forms.mmc_mean_wait_s(8, 0.1, 1) / 2)


def test_m_d_1_distribution_begins_at_the_idle_share_and_has_the_mean():
    rate, service_s = 9.0, 0.1
    assert forms.md1_wait_within(rate, service_s, 0.0) == pytest.approx(0.1)
    assert forms.md1_wait_within(rate, service_s, -1.0) == 0.0
    # While less than one service time is asked for, it is (1 - rho) exp(rate t).
    assert forms.md1_wait_within(rate, service_s, 0.05) == pytest.approx(0.1 * math.exp(0.45))
    step_s = 0.02
    mean_s = sum(1 - forms.md1_wait_within(rate, service_s, (i + 0.5) * step_s) for i in range(400)) * step_s
    assert mean_s == pytest.approx(forms.md1_mean_wait_s(rate, service_s), rel=0.01)


@pytest.mark.parametrize("utilization", [0.1, 0.5, 0.9, 0.97])
def test_percentiles_are_where_the_distribution_says(utilization):
    wait_s = forms.md1_wait_percentile_s(utilization / 0.1, 0.1, 99)
    assert forms.md1_wait_within(utilization / 0.1, 0.1, wait_s) == pytest.approx(0.99, abs=1e-6)
    # As traffic gets heavy the wait is nearly exponential with its mean (Kingman).
    if utilization == 0.97:
        assert wait_s == pytest.approx(-math.log(0.01) * forms.md1_mean_wait_s(9.7, 0.1), rel=0.05)


@pytest.mark.parametrize(("rate", "percent"), [(10, 99), (11, 99), (0, 99), (5, 0), (5, 100)])
def test_servers_without_a_steady_state_and_percentiles_that_are_none_are_refused(rate, percent):
    with pytest.raises(ValueError, match="expected"):
        forms.md1_wait_percentile_s(rate, 0.1, percent)
    with pytest.raises(ValueError, match="expected"):
        forms.mmc_wait_percentile_s(rate, 0.1, 1, percent)
