"""Two load reports against each other: what noise explains, what it does not, and what cannot be compared."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.load.points import ClosedLoop, Latencies, LoadFailure, LoadPoint, LoadReport, ServerTimes
from benchmarks.load.regression import BETWEEN_RUNS, ERROR, bound_text, compare, moderate, noise_of
from builder.errors import SpecError

LOADS = (1, 2, 4, 8)
NOISE = {"images": 0.005, "p50": 0.005, "p99": 0.03}


def report(rng: np.random.Generator, *, slower: float = 1.0, windows: int = 3, between_runs: bool = True) -> LoadReport:
    """A run of noisy windows, with the noise from start to start that the bound allows for."""
    points = []
    for concurrency in LOADS:
        images, p50, p99 = (
            math.exp(rng.normal(0, BETWEEN_RUNS[name] * between_runs)) for name in ("images/s", "p50 ms", "p99 ms")
        )

        def noisy(value: float, kind: str) -> float:
            return value * math.exp(rng.normal(0, NOISE[kind]))

        latencies = tuple(
            Latencies(
                mean=21.0,
                p50=noisy(20 * slower * p50, "p50"),
                p90=25.0,
                p95=27.0,
                p99=noisy(30 * slower * p99, "p99"),
            )
            for _ in range(windows)
        )
        points.append(
            LoadPoint(
                load=ClosedLoop(concurrency=concurrency),
                throughput_images_per_s=40 / slower,
                latency_ms=latencies[0],
                server_ms=ServerTimes(queue=0, compute_input=0, compute_infer=20, compute_output=0),
                batches={1: 100},
                windows_images_per_s=tuple(noisy(40 / slower * images, "images") for _ in range(windows)),
                windows_latency_ms=latencies,
            )
        )
    environment = {"CPU": "one", "cores": "2", "openvino": "1"}
    return LoadReport(model="detector", gpu=None, points=tuple(points), service_ms={}, environment=environment)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("windows", [2, 3, 5])
def test_equal_runs_hardly_ever_raise_an_alarm(rng, windows):
    alarms = sum(compare(report(rng, windows=windows), report(rng, windows=windows)).is_worse for _ in range(100))
    # Three standard deviations of a binomial count above the rate that is stated.
    assert alarms <= 100 * ERROR + 3 * math.sqrt(100 * ERROR * (1 - ERROR))


def test_a_tenth_is_found_in_three_windows(rng):
    comparisons = [compare(report(rng), report(rng, slower=1.1)) for _ in range(50)]
    assert sum(each.is_worse for each in comparisons) >= 48
    found = comparisons[0].regressions
    assert {change.figure for change in found} >= {"images/s", "p50 ms"}
    assert found[0].worse_by == pytest.approx(0.1, abs=0.05)
    assert comparisons[0].summary().startswith("REGRESSION: ")


def test_what_got_faster_is_no_regression(rng):
    comparison = compare(report(rng, slower=1.2), report(rng))
    assert not comparison.is_worse
    assert any(change.is_gain for change in comparison.changes)
    assert comparison.summary().startswith("no regression (noise: images/s up to ")


def test_runs_that_noise_covers_say_that_they_cannot_tell(rng):
    comparison = compare(report(rng), report(rng))
    changes = tuple(replace(change, worse_by=0.6, bound=281.0) for change in comparison.changes)
    covered = replace(comparison, changes=changes)
    assert not covered.is_worse
    assert covered.summary().startswith("these runs cannot tell whether it is worse")
    assert "no regression" not in covered.to_text()
    assert {change.verdict for change in changes} == {"cannot tell"}
    worst = replace(changes[0], worse_by=300.0)
    both = replace(covered, changes=(worst, *changes[1:])).summary()
    assert both.startswith("REGRESSION: ")
    assert "these runs cannot tell" in both


def test_noisier_windows_give_a_wider_bound(rng):
    bounds = {change.figure: change.bound for change in compare(report(rng), report(rng)).changes}
    assert bounds["p99 ms"] > bounds["p50 ms"] > 2 * BETWEEN_RUNS["p50 ms"]


def test_two_runs_differ_by_less_than_the_noise_that_one_of_them_states(rng):
    beyond = 0
    for _ in range(100):
        one, two = report(rng), report(rng)
        noise = noise_of(one)
        beyond += any(
            abs(math.log(change.new / change.baseline)) > math.log1p(noise[change.figure][change.load])
            for change in compare(one, two).changes
        )
    # Three standard deviations of a binomial count above the rate that is stated.
    assert beyond <= 100 * ERROR + 3 * math.sqrt(100 * ERROR * (1 - ERROR))


def test_windows_that_say_nothing_are_told_as_such():
    assert [bound_text(bound) for bound in (0.034, 1.0, 28248.6)] == ["3.4%", "100.0%", "> 100%"]


def test_a_single_repetition_states_no_noise(rng):
    assert noise_of(report(rng, windows=1)) == {}


def test_every_load_and_figure_is_in_the_table(rng):
    text = compare(report(rng), report(rng, slower=1.3)).to_text()
    assert len(text.splitlines()) == 1 + 3 * len(LOADS) + 1
    assert "8 at a time" in text
    assert "WORSE" in text


def test_requests_that_fail_now_are_a_regression(rng):
    same = report(rng)
    failing = replace(same, points=(*same.points[:-1], replace(same.points[-1], failed=3)))
    assert compare(same, failing).new_failures == ("8 at a time",)
    assert compare(same, failing).is_worse
    assert not compare(failing, failing).is_worse


def test_a_load_that_the_server_refuses_now_is_a_regression(rng):
    same = report(rng)
    refused = tuple(LoadFailure(load=point.load, reason="queue full") for point in same.points)
    some = compare(same, replace(same, points=same.points[:3], failures=refused[3:]))
    assert (some.new_failures, some.left_out, some.is_worse) == (("8 at a time",), (), True)
    every = compare(same, replace(same, points=(), failures=refused))
    assert len(every.new_failures) == 4
    assert every.changes == ()
    assert "requests fail now at 1 at a time; requests fail now at 2 at a time" in every.to_text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "other"}, "model detector and other"),
        ({"gpu": "t4"}, "GPU none and t4"),
        ({"environment": {"CPU": "two", "cores": "2"}}, "CPU one and two"),
        ({"environment": {"CPU": "one", "cores": "4"}}, "cores 2 and 4"),
        ({"environment": {"CPU": "one", "cores": "2", "images": "HTTP"}}, "images none and HTTP"),
    ],
)
def test_another_model_or_machine_does_not_compare(rng, change, reason):
    with pytest.raises(SpecError, match=reason):
        compare(report(rng), replace(report(rng), **change))


def test_other_loads_do_not_compare(rng):
    old = report(rng)
    other = replace(old, points=tuple(replace(p, load=ClosedLoop(concurrency=100)) for p in old.points[:1]))
    with pytest.raises(SpecError, match=r"no load is in both: 1 at a time, .*; 100 at a time"):
        compare(old, other)


def test_loads_that_only_one_has_are_left_out_and_named(rng):
    old = report(rng)
    comparison = compare(old, replace(report(rng), points=old.points[:2]))
    assert comparison.left_out == ("4 at a time, only in the baseline", "8 at a time, only in the baseline")
    assert {change.load for change in comparison.changes} == {"1 at a time", "2 at a time"}


def test_one_window_tells_nothing_of_noise(rng):
    with pytest.raises(SpecError, match=r"baseline has 1 window at 1 at a time.*--repeats 3"):
        compare(report(rng, windows=1), report(rng))


def test_other_versions_compare_and_are_named(rng):
    newer = replace(report(rng), environment={"CPU": "one", "cores": "2", "openvino": "2", "command": "c"})
    assert compare(report(rng), newer).differences == ("openvino: 1, now 2",)


def test_windows_without_an_answer_are_worse_not_an_error(rng):
    old = report(rng)
    dead = replace(old, points=tuple(replace(p, windows_images_per_s=(0.0, 0.0, 0.0)) for p in old.points))
    assert any(change.figure == "images/s" for change in compare(old, dead).regressions)


def test_the_json_says_what_the_table_says(rng):
    comparison = compare(report(rng), report(rng, slower=1.5))
    value = comparison.to_json()
    assert value["is_worse"]
    assert [each["verdict"] for each in value["changes"]] == [each.verdict for each in comparison.changes]


def test_variances_that_agree_are_pooled():
    assert moderate([1.0, 1.0, 1.0], [4, 4, 4]) == [(1.0, 12.0)] * 3


def test_variances_that_differ_widely_stay_apart():
    (low, freedom), (high, _) = moderate([1e-6, 1e3], [4, 4])
    assert low < 1e-3
    assert high > 10
    assert 4 < freedom < 5


def test_moderated_variances_come_closer_to_the_true_ones(rng):
    """Smyth 2004: with a common spread, the moderated variance has a smaller squared error than the sample's own."""
    freedom, prior = 4, 10
    true = prior / rng.chisquare(prior, 2000)
    sample = true * rng.chisquare(freedom, 2000) / freedom
    moderated = moderate(list(sample), [freedom] * 2000)
    own = np.mean((np.log(sample) - np.log(true)) ** 2)
    assert np.mean([(math.log(v) - math.log(t)) ** 2 for (v, _), t in zip(moderated, true, strict=True)]) < own / 2
    assert moderated[0][1] - freedom == pytest.approx(prior, rel=0.3)


def test_one_load_has_its_own_variance():
    assert moderate([2.0], [4]) == [(2.0, 4.0)]
