"""The gate's verdicts on comparisons made by hand."""

import dataclasses

import pytest

from builder.comparison import AccuracyDrop, Comparison, ConfidenceDrift
from builder.gate import GateLimits

LIMITS = GateLimits(max_map_drop=0.01, max_confidence_drop=0.05)


def drift(name, median):
    return ConfidenceDrift(
        name=name,
        matched=0 if median is None else 9,
        median=median,
        percentile_5=median,
        percentile_95=median,
        median_absolute=median and abs(median),
        percentile_95_absolute=median and abs(median),
        lost=3,
        fell_below=0,
        gained=0,
    )


def comparison(map_drop=0.0, median=0.0):
    def drop(name, value):
        return AccuracyDrop(name=name, objects=5, map50_95=value, map50=value)

    return Comparison(
        overall=drop("all", map_drop),
        sizes=(drop("small", 0.3), drop("large", None)),
        classes=(drop("cat", 0.1), drop("dog", 0.2)),
        drift=drift("all", median),
        class_drifts=(drift("cat", -0.4), drift("dog", None)),
        disagreements=(),
    )


@pytest.mark.parametrize(("map_drop", "median"), [(0.0, 0.0), (0.01, -0.05), (-0.2, 0.3)])
def test_losses_up_to_the_limit_and_gains_pass(map_drop, median):
    assert LIMITS.failures(comparison(map_drop, median)) == []
    assert LIMITS.violation(comparison(map_drop, median)) <= 1


def test_a_lost_map_names_the_worst_classes_and_sizes_first():
    (line,) = LIMITS.failures(comparison(map_drop=0.02))
    assert line == ("mAP50-95 falls by 0.020, limit 0.01 (worst classes: dog 0.200, cat 0.100; sizes: small 0.300)")
    assert LIMITS.violation(comparison(map_drop=0.02)) == pytest.approx(2)


def test_a_collapse_of_confidence_that_map_hides_fails():
    (line,) = LIMITS.failures(comparison(median=-0.4))
    assert line == ("the median confidence falls by 0.400, limit 0.05 (worst classes: cat 0.400; 3 boxes are lost)")
    assert LIMITS.violation(comparison(median=-0.4)) == pytest.approx(8)


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_a_figure_that_is_none_fails_both_ways(nothing):
    for broken in (comparison(median=nothing), comparison(map_drop=nothing)):
        assert len(LIMITS.failures(broken)) == 1
        assert LIMITS.violation(broken) == float("inf")


def test_a_limit_of_zero_lets_nothing_be_lost():
    strict = dataclasses.replace(LIMITS, max_map_drop=0.0)
    assert strict.failures(comparison(map_drop=1e-4))
    assert strict.failures(comparison(map_drop=0.0)) == []
