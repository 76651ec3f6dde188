"""The search on simulated GPUs, which were searched exhaustively before: tests/golden/gpu_surfaces.json.

The throughput that a winner has is its configuration's in that file, measured for long and without noise, not the one
that the search saw.
"""

import dataclasses
import itertools
import json
import statistics

import pytest

from benchmarks.tune.report import errors
from benchmarks.tune.search import LEAST_MEASUREMENTS, search
from benchmarks.tune.space import Goal, Space, queue_bound
from benchmarks.tune.surface import Budget, TrialFailedError
from tests.gpu_simulations import GOLDEN, GPUS, SimulatedGpu, key, limits_ms, space

ALLOWED = 15
TRUTH = json.loads(GOLDEN.read_text())
GPU = {gpu.name: gpu for gpu in GPUS}


def tuned(gpu, limit, *, allowed=ALLOWED, surface=None, searched=None):
    budget = Budget(surface=surface or SimulatedGpu(gpu), allowed=allowed)
    lines = []
    outcome = search(searched or space(), Goal(sla_ms=limit), budget, lines.append)
    assert len(lines) == budget.used == len(outcome.steps) + len(outcome.failed) <= allowed
    return outcome


@pytest.fixture(scope="module")
def outcomes():
    """Each GPU without a limit, with a tight and with a loose one, a third of them each."""
    chosen = zip(GPUS, itertools.cycle(range(3)))
    return {(gpu.name, limits_ms(gpu)[limit]): tuned(gpu, limits_ms(gpu)[limit]) for gpu, limit in chosen}


def test_few_measurements_reach_what_all_of_them_would(outcomes):
    shares = {}
    for (name, limit), outcome in outcomes.items():
        truth = TRUTH[name][str(limit)]
        shares[name, limit] = truth[key(outcome.winner.trial.settings)] / max(truth.values())
    assert len(shares) >= 10
    assert statistics.median(shares.values()) >= 0.98, shares
    assert min(shares.values()) >= 0.93, shares


def test_winners_meet_the_limit_and_their_queue_what_it_leaves(outcomes):
    for (_, limit), outcome in outcomes.items():
        winner = outcome.winner
        if limit is None:
            assert outcome.queue_bound == 0, "as it was"
            continue
        assert winner.latency_ms <= limit
        checked = outcome.steps[-1]
        assert checked.trial.settings.max_queue_size > 0, "it was tried with what its queue may hold"
        if not outcome.queue_bound:
            assert checked.point.throughput_images_per_s < winner.point.throughput_images_per_s
            continue
        execution_ms = outcome.model.execution_ms(winner.trial)
        throughput = winner.point.throughput_images_per_s
        assert outcome.queue_bound == queue_bound(
            throughput, execution_ms, outcome.goal, winner.trial, outcome.space.base
        )
        assert outcome.queue_bound >= winner.trial.clients


def test_latencies_are_within_15_percent_of_what_was_predicted(outcomes):
    found = []
    for outcome in outcomes.values():
        confirmed = [step for step in outcome.steps if step.is_confirmation]
        found.append(errors(confirmed, corrected=True))
    assert statistics.median(each.latency for each in found) <= 0.15
    assert statistics.median(each.throughput for each in found) <= 0.08


def test_the_simulated_gpus_still_give_what_was_written_down():
    """A few of the exhaustive search's figures, from one load level each, with the noise of a short measurement."""
    gpu = GPU["a10-s"]
    for settings in list(space().configurations())[::40]:
        written = TRUTH["a10-s"]["None"][key(settings)]
        trials = [each for each in space().trials() if key(each.settings) == key(settings)]
        measured = [SimulatedGpu(gpu, requests=600, drift=0).measure(each) for each in trials]
        assert max(each.throughput_images_per_s for each in measured) == pytest.approx(written, rel=0.06)


@pytest.mark.parametrize("allowed", [LEAST_MEASUREMENTS, 6])
def test_a_smaller_budget_is_kept_too(allowed):
    outcome = tuned(GPU["t4-s"], 60.0, allowed=allowed)
    assert len(outcome.steps) == allowed
    assert outcome.winner.latency_ms <= 60


def test_a_limit_that_nothing_meets_has_no_winner_and_is_given_up_early():
    outcome = tuned(GPU["t4-m"], 2.0)
    assert outcome.winner is None
    assert "no hope" in outcome.reason
    assert len(outcome.steps) < ALLOWED


def test_a_configuration_that_does_not_load_is_no_choice_and_no_end():
    class Full(SimulatedGpu):
        """Two instances are all that its memory holds."""

        def measure(self, trial):
            if trial.settings.instances > 2:
                self.measured += 1
                raise TrialFailedError("it does not load: out of memory")
            return super().measure(trial)

    outcome = tuned(GPU["l4-n"], None, surface=Full(GPU["l4-n"]))
    assert outcome.failed
    assert {reason for _, reason in outcome.failed} == {"it does not load: out of memory"}
    assert outcome.winner.trial.settings.instances <= 2


def test_a_server_that_fails_the_first_requests_is_an_error():
    class Broken(SimulatedGpu):
        def measure(self, trial):
            raise TrialFailedError("the server failed a request")

    with pytest.raises(TrialFailedError, match="failed a request"):
        tuned(GPU["l4-n"], None, surface=Broken(GPU["l4-n"]))


def test_a_space_of_one_configuration_is_measured_at_its_loads():
    base = space().base
    one = Space(base=dataclasses.replace(base, max_batch=1), batches=(1,), instances=(1,), delays_us=(0,))
    outcome = tuned(GPU["l4-n"], None, searched=one)
    assert outcome.winner.trial.settings.max_batch == 1
    assert "every trial" in outcome.reason or "no other trial" in outcome.reason


def test_the_same_measurements_lead_the_same_way():
    first, second = (tuned(GPU["a30-s"], 14.0) for _ in range(2))
    assert [step.trial for step in first.steps] == [step.trial for step in second.steps]
    assert first.winner == second.winner
