"""What a tuning is reported as: table, JSON, page."""

import json
import re
from dataclasses import replace

import pytest

from benchmarks.tune.page import page
from benchmarks.tune.report import TuneReport
from benchmarks.tune.search import search
from benchmarks.tune.space import Goal
from benchmarks.tune.surface import Budget
from tests.browser import open_page
from tests.gpu_simulations import GPUS, SimulatedGpu, space

GPU = {gpu.name: gpu for gpu in GPUS}["a10-m"]


def report_of(limit):
    outcome = search(space(), Goal(sla_ms=limit), Budget(surface=SimulatedGpu(GPU), allowed=12), lambda _: None)
    return TuneReport(
        model="shop<b>",
        config_name="a10",
        outcome=outcome,
        written="DIR/shop/configs/a10.pbtxt" if outcome.winner else None,
        environment={"command": "python -m benchmarks tune --model shop"},
    )


@pytest.fixture(scope="module")
def met():
    return report_of(60.0)


@pytest.fixture(scope="module")
def missed():
    return report_of(1.0)


def test_the_table_has_every_measurement_the_fit_and_the_winner(met):
    text = met.to_text()
    outcome = met.outcome
    assert met.all_met
    assert "p99 within 60 ms" in text
    assert f"{len(outcome.steps)} of 12 measurements of 120 configurations" in text
    rows = re.findall(r"^\d+ x \d, [\d.]+ ms, \d+ .*$", text, re.MULTILINE)
    assert len(rows) == len(outcome.steps)
    assert sum(row.endswith("winner") for row in rows) == 1
    assert sum("-" in row for row in rows) == sum(not step.is_confirmation for step in outcome.steps)
    assert "service time in ms by images" in text
    assert "median error over" in text
    assert f"the queue holds {outcome.queue_bound}" in text
    assert "written: DIR/shop/configs/a10.pbtxt" in text
    assert text.splitlines()[-1].endswith("python -m benchmarks tune --model shop")


def test_a_single_measurement_above_the_winner_is_told(met):
    outcome, winner = met.outcome, met.outcome.winner
    assert "weighed:" not in replace(met, outcome=replace(outcome, steps=(winner,))).to_text()
    lucky = replace(
        winner,
        trial=replace(winner.trial, clients=winner.trial.clients + 1),
        point=replace(winner.point, throughput_images_per_s=1.03 * winner.point.throughput_images_per_s),
    )
    told = replace(met, outcome=replace(outcome, steps=(*outcome.steps, lucky)))
    assert f"weighed: {lucky.trial} was measured once with" in told.to_text()
    assert "3.0% more than the winner" in told.to_text()
    assert "weighed: " in page(told)
    late = replace(lucky, latency_ms=1e6)
    assert f"weighed: {lucky.trial}" not in replace(met, outcome=replace(outcome, steps=(winner, late))).to_text()


def test_a_missed_limit_says_what_came_nearest(missed):
    text = missed.to_text()
    assert not missed.all_met
    least = min(step.latency_ms for step in missed.outcome.steps)
    assert f"MISSED: no configuration was found with p99 within 1 ms; the least was {least:.1f} ms" in text
    assert "nothing was written" in text
    assert "winner:" not in text


def test_json_has_all_of_it(met, missed):
    value = json.loads(json.dumps(met.to_json(), allow_nan=False))
    assert value["schema"] == "tune/1"
    assert value["goal"] == {"sla_ms": 60.0, "percentile": 99}
    assert value["space"]["configurations"] == 120
    assert value["measurements"] == {"allowed": 12, "used": len(value["steps"])}
    assert set(value["fit"]) == {"service_ms", "overhead_ms", "slowdown", "jitter", "answers"}
    confirmations = [step for step in value["steps"] if step["kind"] == "confirmation"]
    assert confirmations
    for step in confirmations:
        for predicted in (step["queue_model"], step["predicted"]):
            assert predicted["throughput_images_per_s"] > 0
            assert predicted["latency_ms"] > 0
    assert value["winner"] in value["steps"]
    assert value["winner"]["measured"]["latency_ms"]["p99"] <= 60
    assert value["max_queue_size"] == met.outcome.queue_bound
    assert value["errors"]["predicted"]["latency"] > 0
    assert json.loads(json.dumps(missed.to_json(), allow_nan=False))["winner"] is None


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (420, True)])
def test_the_page_shows_its_charts_and_complains_of_nothing(met, tmp_path, width, dark):
    path = tmp_path / "tune.html"
    path.write_text(page(met))
    shown = open_page(path, width=width, dark=dark)
    assert shown.console == ()
    assert not shown.scrolls_sideways
    assert "shop<b>" in shown.title
    charts = {chart.label: chart for chart in shown.charts if chart.label}
    assert set(charts) == {
        "Throughput and p99 of what was measured",
        "p99 of the confirmations",
        "Throughput of the confirmations",
        "Service time by batch",
    }
    for chart in charts.values():
        assert chart.marks > 0
        assert chart.outside == ()
        assert chart.clashes == ()
    assert "the queue holds" in shown.text
    assert "Predicted against measured" in shown.text


def test_a_page_of_a_missed_limit_says_so(missed, tmp_path):
    path = tmp_path / "tune.html"
    path.write_text(page(missed))
    shown = open_page(path)
    assert shown.console == ()
    assert "Goal missed" in shown.text
