"""The fleet frame by frame: every frame is accounted for, streams stay where they are, and more GPUs never hurt."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.search import fewest_that_hold, most_tried
from benchmarks.capacity.server_model import ServerModel, Source
from benchmarks.capacity.simulation import (
    FEWEST_SERVERS,
    HOURS,
    PEAK_HOUR,
    Fleet,
    Scenario,
    daily_profile,
    pinned,
    pinned_after_loss,
    simulate_scenario,
)
from benchmarks.queueing.batcher import Batcher

FRAMES = 4_000
NOISE = 1.05
"""Between two draws of phases, of a percentile over FRAMES frames."""


def server_of(service_s: dict[int, float] | None = None, **changes) -> ServerModel:
    service_s = service_s or {1: 0.004, 8: 0.016}
    common = {"instances": 2, "slowdown": 1.0, "largest_batch": max(service_s)}
    return ServerModel(source=Source.ESTIMATE, service_s=service_s, **{**common, **changes})


def fleet_of(server: ServerModel | None = None, *, batcher: Batcher | None = None, **changes) -> Fleet:
    server = server or server_of()
    batcher = batcher or Batcher(
        max_batch=server.largest_batch, delay_s=0.0005, instances=server.instances, slowdown=server.slowdown
    )
    common = {"streams": 64, "fps": 10.0, "gpus": 4, "sla_s": 0.05, "percentile": 99, "frames": FRAMES}
    return Fleet(server=server, batcher=batcher, **{**common, **changes})


@given(st.integers(1, 500), st.integers(1, 60))
def test_streams_are_dealt_out_evenly_and_all(streams, gpus):
    counts = pinned(streams, gpus)
    assert (len(counts), sum(counts)) == (gpus, streams)
    assert max(counts) - min(counts) <= 1


@given(st.integers(1, 500), st.integers(2, 60))
def test_the_streams_of_a_lost_gpu_go_to_the_others_evenly(streams, gpus):
    had = pinned(streams, gpus)
    survivors = pinned_after_loss(streams, gpus)
    assert [own for own, _ in survivors] == had[1:]
    assert sum(got for _, got in survivors) == had[0]
    after = [own + got for own, got in survivors]
    assert max(after) - min(after) <= 1


def test_with_one_gpu_lost_of_one_there_is_none_left():
    assert pinned_after_loss(64, 1) == []
    outcome = simulate_scenario(fleet_of(gpus=1), Scenario.LOST)
    assert (outcome.gpus, outcome.holds, outcome.latency_ms) == (0, False, None)
    assert outcome.lost > 0


@pytest.mark.parametrize("scenario", Scenario)
@settings(max_examples=8)
@given(
    streams=st.integers(1, 40),
    gpus=st.integers(1, 5),
    fps=st.sampled_from([0.5, 10.0, 60.0]),
    limit=st.sampled_from([0, 2]),
    timeout_s=st.sampled_from([0.0, 0.01]),
)
def test_frames_are_answered_refused_or_lost(scenario, streams, gpus, fps, limit, timeout_s):
    batcher = Batcher(max_batch=8, instances=2, slowdown=1.0, queue_limit=limit, timeout_s=timeout_s)
    outcome = simulate_scenario(fleet_of(batcher=batcher, streams=streams, gpus=gpus, fps=fps, frames=500), scenario)
    assert outcome.frames == outcome.answered + outcome.refused + outcome.lost
    assert 0 <= outcome.within <= 1
    assert (outcome.lost > 0) <= (scenario is Scenario.LOST)
    if not limit and not timeout_s:
        assert outcome.refused == 0


@pytest.mark.parametrize("scenario", [scenario for scenario in Scenario if scenario is not Scenario.POISSON])
def test_more_gpus_make_no_latency_worse(scenario):
    previous = None
    for gpus in (2, 3, 4, 6, 8, 12, 16):
        latency = simulate_scenario(fleet_of(gpus=gpus, frames=40_000), scenario).latency_ms
        if previous is not None:
            assert all(latency[percent] <= previous[percent] * NOISE for percent in latency), gpus
        previous = latency


def test_more_streams_and_more_frames_make_no_latency_better():
    for field, values in (("streams", (32, 64, 96, 128)), ("fps", (5.0, 10.0, 20.0))):
        previous = 0.0
        for value in values:
            outcome = simulate_scenario(fleet_of(gpus=2, frames=40_000, **{field: value}), Scenario.NORMAL)
            assert outcome.latency_ms[99] >= previous / NOISE, (field, value)
            previous = outcome.latency_ms[99]


def test_periodic_cameras_wait_less_than_poisson_arrivals_at_the_same_rate():
    fleet = fleet_of(server_of({1: 0.0125}, instances=1, slowdown=0.0), gpus=12)
    cameras, users = (simulate_scenario(fleet, each).latency_ms[99] for each in (Scenario.NORMAL, Scenario.POISSON))
    assert cameras * 1.5 < users
    assert not Scenario.POISSON.judged


def test_a_lone_camera_never_waits():
    fleet = fleet_of(server_of({1: 0.01}, instances=1, slowdown=0.0, overhead_s=0.002), streams=1, gpus=1)
    fleet = dataclasses.replace(fleet, batcher=Batcher(max_batch=1))
    outcome = simulate_scenario(fleet, Scenario.NORMAL)
    assert outcome.latency_ms == pytest.approx(dict.fromkeys((50, 90, 95, 99), 12.0))
    assert outcome.holds


def test_what_cannot_keep_up_is_seen_to_miss():
    outcome = simulate_scenario(fleet_of(gpus=1, streams=200, fps=25.0), Scenario.NORMAL)
    assert not outcome.holds
    assert outcome.latency_ms[99] > 50


def test_refused_frames_count_as_late():
    batcher = Batcher(max_batch=1, queue_limit=1, instances=1)
    fleet = fleet_of(server_of({1: 0.02}, instances=1), batcher=batcher, gpus=4, sla_s=0.05)
    outcome = simulate_scenario(fleet, Scenario.NORMAL)
    assert outcome.refused > 0.1 * outcome.frames
    assert outcome.latency_ms[99] <= 50
    assert not outcome.holds


def test_a_loss_costs_the_frames_until_the_cameras_are_back():
    # 16 of 64 cameras, 10 frames/s, for 1 s, and four rounds of it; what was under way comes on top.
    outcome = simulate_scenario(fleet_of(gpus=4), Scenario.LOST)
    assert 16 * 10 * 4 - 16 * 4 <= outcome.lost <= 16 * 10 * 4 + 16 * 4
    sooner = simulate_scenario(fleet_of(gpus=4, reconnect_s=0.1), Scenario.LOST)
    assert sooner.lost < outcome.lost / 5
    assert outcome.gpus == 3


def test_two_versions_and_the_peak_take_longer_than_the_usual_day():
    normal, two, peak = (
        simulate_scenario(fleet_of(gpus=2), each).latency_ms[99]
        for each in (Scenario.NORMAL, Scenario.ROLLOUT, Scenario.PEAK)
    )
    assert two > normal
    assert peak > normal


def test_the_same_request_gives_the_same_figures_and_another_seed_others():
    one, again, other = (simulate_scenario(fleet_of(seed=seed), Scenario.NORMAL) for seed in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize(("streams", "gpus"), [(20_000, 1_000), (100_000, 200)])
def test_of_a_large_fleet_a_sample_is_simulated(streams, gpus):
    outcome = simulate_scenario(fleet_of(streams=streams, gpus=gpus), Scenario.NORMAL)
    assert outcome.gpus == gpus
    assert FRAMES / 2 <= outcome.frames <= max(2 * FRAMES, FEWEST_SERVERS * streams / gpus * 20)


def test_the_day_has_its_peak_and_its_night():
    fleet = fleet_of(peak=1.3)
    profile = daily_profile(fleet)
    factors = [factor for factor, _ in profile]
    assert len(factors) == HOURS
    assert max(factors) == factors[PEAK_HOUR] == 1.3
    assert min(factors) == pytest.approx(0.7)
    assert sum(factors) / HOURS == pytest.approx(1.0)
    assert all(outcome.holds for _, outcome in profile)


def test_a_peak_beyond_twice_the_mean_leaves_no_hour_without_frames():
    assert min(factor for factor, _ in daily_profile(fleet_of(peak=3.0, frames=500))) > 0


def test_the_fewest_that_hold_hold_and_one_fewer_does_not():
    fleet = fleet_of(server_of({1: 0.0125}, instances=1, slowdown=0.0), gpus=8)
    fewest = fewest_that_hold(fleet)
    judged = [scenario for scenario in Scenario if scenario.judged]

    def holds(gpus: int) -> bool:
        return all(simulate_scenario(dataclasses.replace(fleet, gpus=gpus), each).holds for each in judged)

    assert 8 < fewest <= most_tried(fleet)
    assert holds(fewest)
    assert not holds(fewest - 1)


def test_where_no_number_holds_none_is_given():
    fleet = fleet_of(server_of({1: 0.06}, instances=1), streams=8, gpus=2)
    assert fewest_that_hold(fleet) is None


@pytest.mark.parametrize("changes", [{"streams": 0}, {"gpus": 0}, {"fps": 0.0}, {"sla_s": 0.0}, {"peak": 0.5}])
def test_a_fleet_that_cannot_be_is_refused(changes):
    with pytest.raises(ValueError, match="expected"):
        fleet_of(**changes)
