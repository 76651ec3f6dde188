"""Service times from a report, by hand and from a graph: each reaches the throughput that it is made of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.from_report import error_of, measured
from benchmarks.capacity.server_model import Source, by_hand, estimated
from benchmarks.load.points import Latencies
from builder.errors import SpecError
from builder.gpus import find_gpu
from builder.graph_cost import GraphCost
from builder.service_time import service_time_ms
from tests.unit.benchmarks.capacity.load_reports import load_report

COST = GraphCost(
    multiply_adds=14_300_000_000,
    fp32_share=0.0,
    weight_bytes=22_400_000,
    layers=90,
    traffic_bytes=50_000_000,
    unsized_tensors=0,
    buffers=(),
)
SERVICE_S = {1: 0.003, 4: 0.008, 8: 0.014}


@pytest.mark.parametrize("slowdown", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("instances", [1, 2, 3])
def test_a_report_gives_back_the_server_that_it_is_of(instances, slowdown):
    report = load_report(SERVICE_S, instances=instances, slowdown=slowdown)
    model = measured(report, "load.json")
    assert (model.source, model.instances) == (Source.MEASURED, instances)
    assert model.slowdown == pytest.approx(slowdown if instances > 1 else 0.0, abs=0.11)
    assert model.overhead_s == pytest.approx(0.001, rel=0.01)
    assert model.service_s == pytest.approx(SERVICE_S, rel=0.05)
    best = max(point.throughput_images_per_s for point in report.points)
    assert max(map(model.images_per_s, model.service_s)) == pytest.approx(best, rel=0.02)
    error = error_of(model, report)
    assert max(map(abs, error.throughput + error.p99)) < 0.05


def test_the_error_against_a_report_is_told_in_words():
    report = load_report(SERVICE_S)
    assert "in the median" in str(error_of(measured(report, "load.json"), report))
    opened = dataclasses.replace(report, points=())
    assert error_of(measured(report, "load.json"), opened) is None


def test_points_with_failures_do_not_count():
    report = load_report(SERVICE_S)
    failing = dataclasses.replace(report.points[-1], failed=3, throughput_images_per_s=1e6)
    spoilt = dataclasses.replace(report, points=(*report.points, failing))
    assert measured(spoilt, "load.json") == measured(report, "load.json")


@pytest.mark.parametrize(("instances", "slowdown"), [(1, 0.0), (2, 0.0), (2, 0.6), (2, 1.0)])
def test_without_service_times_the_latency_of_one_at_a_time_gives_them(instances, slowdown):
    report = load_report({1: 0.02}, instances=instances, slowdown=slowdown)
    model = measured(dataclasses.replace(report, service_ms={}), "load.json")
    best = max(point.throughput_images_per_s for point in report.points)
    assert max(map(model.images_per_s, model.service_s)) == pytest.approx(best, rel=0.01)
    assert model.alone_s() == pytest.approx(report.points[0].latency_ms.mean / 1e3, rel=0.01)
    error = error_of(model, report)
    assert max(map(abs, error.throughput + error.p99)) < 0.1


def test_without_service_times_the_batches_tell_what_batching_gains():
    report = load_report({1: 0.02, 8: 0.04}, instances=1, slowdown=0.0, concurrencies=(1, 2, 4, 8, 16, 32))
    model = measured(dataclasses.replace(report, service_ms={}), "load.json")
    assert model.instances == 1
    assert model.largest_batch == 8
    assert model.service_s[8] == pytest.approx(0.04, rel=0.05)
    error = error_of(model, report)
    assert max(map(abs, error.throughput + error.p99)) < 0.12


def test_executions_scatter_as_one_request_at_a_time_does():
    report = load_report({1: 0.02}, instances=1)
    single = dataclasses.replace(
        report.points[0], latency_ms=Latencies(mean=22.0, p50=20.0, p90=25.0, p95=30.0, p99=60.0)
    )
    model = measured(dataclasses.replace(report, points=(single, *report.points[1:])), "load.json")
    drawn = model.drawn(np.random.default_rng(0))
    times_s = np.array([drawn(1) for _ in range(20_000)])
    assert times_s.mean() == pytest.approx(model.service(1), rel=0.02)
    p50, p90, p99 = np.percentile(times_s, (50, 90, 99))
    assert p90 / p50 == pytest.approx(25 / 20, rel=0.03)
    assert p99 / p50 == pytest.approx(60 / 20, rel=0.1)


def test_a_report_without_figures_is_refused():
    report = load_report(SERVICE_S)
    with pytest.raises(SpecError, match=r"load.json: expected a point without failed requests, got none"):
        measured(dataclasses.replace(report, points=()), "load.json")
    with pytest.raises(SpecError, match=r"expected service times, or a point of one request at a time, got neither"):
        measured(dataclasses.replace(report, service_ms={}, points=report.points[1:]), "load.json")


@settings(max_examples=30)
@given(st.floats(0.5, 5000))
def test_by_hand_the_throughput_is_the_one_given(images_per_s):
    alone = by_hand(images_per_s, None)
    assert alone.images_per_s(1) == pytest.approx(images_per_s)
    shaped = by_hand(images_per_s, estimated(COST, find_gpu("t4"), 2))
    assert max(map(shaped.images_per_s, shaped.service_s)) == pytest.approx(images_per_s)
    assert shaped.source is alone.source is Source.BY_HAND


def test_an_estimate_is_the_builders():
    t4 = find_gpu("t4")
    model = estimated(COST, t4, 2)
    for batch in (1, 8, 64):
        alone_s = service_time_ms(COST, t4, batch) / 1e3
        assert model.service(batch) == pytest.approx(alone_s)
        assert model.images_per_s(batch) == pytest.approx(batch / alone_s)
        # builder.sizing: delay + 2 x instances x service time.
        assert model.latency_s(batch, 0.0005) == pytest.approx(0.0005 + 2 * 2 * alone_s)


def test_what_cannot_be_estimated_says_why_and_what_to_do():
    with pytest.raises(SpecError, match=r"rtx-4070: .* its peak FP16 is not in the table; .*--throughput rtx-4070="):
        estimated(COST, find_gpu("rtx-4070"), 2)
    with pytest.raises(SpecError, match="the network is in FP32"):
        estimated(dataclasses.replace(COST, fp32_share=1.0), find_gpu("t4"), 2)
