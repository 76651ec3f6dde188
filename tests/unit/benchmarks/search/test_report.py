"""Trials side by side: the ratio, its target, and what is no comparison."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.cli import main
from benchmarks.search.report import SearchReport

REPORT = SearchReport(
    trials=2, epochs=6, at_once=2, cpus_per_trial=1, in_turn_s=(50.0, 60.0, 40.0), side_by_side_s=(35.0, 36.0, 32.0),
    same=True, other_cpu_share=0.0, environment={"cores": "2"},
)  # fmt: skip


def test_ratio_is_taken_turn_by_turn() -> None:
    assert REPORT.ratio.median == pytest.approx(0.7)
    assert (REPORT.ratio.lowest, REPORT.ratio.highest) == pytest.approx((0.6, 0.8))
    assert REPORT.all_met
    assert "0.700 (0.600-0.800) (target: under 0.75, met)" in REPORT.to_text()


def test_other_work_and_a_higher_ratio_miss_the_target() -> None:
    slow = dataclasses.replace(REPORT, side_by_side_s=(45.0, 45.0, 40.0))
    other = dataclasses.replace(REPORT, same=False)
    for report in (slow, other):
        assert not report.all_met
        assert "MISSED" in report.to_text()
    assert "WARNING: other figures" in other.to_text()
    busy = dataclasses.replace(REPORT, other_cpu_share=0.5)
    assert "WARNING: other processes used 50.0% of the CPU just before a turn" in busy.to_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--at-once", "2"), "expected the search behind --"),
        (("--at-once", "1", "--", "--space", "s.yaml"), "--at-once: expected 2 or more"),
        (("--", "--space", "s.yaml", "--run", "x"), "--run behind --: the benchmark gives it"),
        (("--cpus-per-trial", "9999", "--", "--space", "s.yaml"), "with 9999 CPU(s) each: this machine has"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *words]) == 2
    assert told in capsys.readouterr().err
