"""What an exhaustive grid says of a tuning."""

import json

import pytest

from benchmarks.tune.grid import GridReport, grid_trials
from benchmarks.tune.space import Goal, Space
from builder.serving import ServingSettings
from tests.gpu_simulations import GPUS, SimulatedGpu

BASE = ServingSettings(max_batch=8, queue_timeout_ms=0, max_queue_size=0)
SPACE = Space(base=BASE, batches=(1, 8), instances=(1, 2), delays_us=(0,))
LIMIT_MS = 60.0


@pytest.fixture(scope="module")
def report():
    surface = SimulatedGpu(GPUS[1], requests=300)
    trials = grid_trials(SPACE, (1, 8, 24))
    measured = {trial: surface.measure(trial) for trial in trials}
    failed, tuned, best, other = trials[0], trials[3], trials[6], trials[9]
    measured[failed] = None
    return GridReport(
        model="shop",
        goal=Goal(sla_ms=LIMIT_MS),
        configurations=SPACE.size,
        measured=measured,
        finals={trial: [surface.measure(trial) for _ in range(3)] for trial in (best, other, tuned)},
        tuned=tuned,
        tuned_measurements=9,
        environment={"command": "python -m benchmarks tune --grid FILE"},
    )


def test_the_share_is_of_medians_of_the_last_round(report):
    def median(trial):
        return sorted(point.throughput_images_per_s for point in report.finals[trial])[1]

    best = max(median(trial) for trial in report.finals if trial != report.tuned)
    assert report.share == pytest.approx(median(report.tuned) / best)
    assert f"tune reached {report.share:.3f} of the grid's best with 9 measurements" in report.to_text()


def test_only_loads_within_the_limit_count_and_the_best_of_each_configuration(report):
    text = report.to_text()
    shown = [line.split() for line in text.split("\n\n")[1].splitlines()[1:]]
    throughputs = [float(words[-2]) for words in shown]
    assert throughputs == sorted(throughputs, reverse=True)
    assert all(float(words[-1]) <= LIMIT_MS for words in shown)
    configurations = [" ".join(words[:5]) for words in shown]
    assert len(configurations) == len(set(configurations)) <= SPACE.size


def test_all_of_it_is_in_the_json(report):
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert len(value["points"]) == 12
    assert sum(point["point"] is None for point in value["points"]) == 1
    assert [final["tuned"] for final in value["finals"]].count(True) == 1
    assert value["share"] == report.share


def test_without_a_tuning_there_is_no_share(report):
    alone = GridReport(
        model="shop",
        goal=Goal(),
        configurations=SPACE.size,
        measured=report.measured,
        finals={},
        tuned=None,
        tuned_measurements=0,
        environment=report.environment,
    )
    assert alone.share is None
    assert "tune reached" not in alone.to_text()
