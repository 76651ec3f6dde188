"""The estimate against what was measured: the errors that are printed are those that the estimate's own text admits."""

from __future__ import annotations

from benchmarks.capacity.known_cases import EstimateError, error_lines, known_cases
from builder.gpus import find_gpu


def errors(gpu: str) -> list[float]:
    return [case.error for case in known_cases() if case.gpu == gpu]


def test_every_published_case_is_compared():
    cases = known_cases()
    assert len(cases) == 15
    assert {find_gpu(case.gpu).name for case in cases} == {"t4", "a100-40gb"}
    for case in cases:
        assert case.estimated_ms / case.measured_ms - 1 == case.error


def test_the_errors_are_those_that_the_estimate_admits():
    assert max(map(abs, errors("t4"))) < 0.11
    assert 0.07 < min(errors("a100-40gb")) < max(errors("a100-40gb")) < 0.23


def test_the_lines_beside_an_estimate_hold_the_computed_errors():
    first = error_lines()[0]
    assert first.startswith("ESTIMATE")
    for gpu in ("t4", "a100-40gb"):
        of_gpu = EstimateError.of([case for case in known_cases() if case.gpu == gpu])
        assert f"{gpu} {min(errors(gpu)):+.0%} to {max(errors(gpu)):+.0%}" in first
        assert f"({of_gpu.cases})" in first
