"""The model is fitted to what it made itself, and then says what else it would make."""

import pytest

from benchmarks.load.points import ClosedLoop, Latencies, LoadPoint, ServerTimes
from benchmarks.queueing.batcher import Answers, Batcher, simulate_closed
from benchmarks.queueing.service import ServiceTimes
from benchmarks.tune.model import QueueModel, Slowdown, fit
from benchmarks.tune.space import Trial
from builder.serving import ServingSettings

SERVICE = ServiceTimes.from_measured({1: 0.005, 4: 0.011, 16: 0.035})
NOTHING = ServerTimes(queue=0, compute_input=0, compute_infer=0, compute_output=0)


def trial(batch, instances, clients):
    return Trial(settings=ServingSettings(max_batch=batch, instances=instances, max_queue_delay_us=0), clients=clients)


def measured(trial, *, slowdown=0.0, overhead_s=0.0, answers=Answers.TOGETHER):
    """What a deployment that is exactly like the model gives."""
    model = QueueModel(
        service=SERVICE, overhead_s=overhead_s, slowdown=Slowdown(((1, slowdown),)), jitter=0.0, answers=answers
    )
    prediction = model.predict(trial, 99)
    latencies = Latencies(
        **dict.fromkeys(("p50", "p90", "p95", "p99"), prediction.latency_ms), mean=prediction.latency_ms
    )
    return LoadPoint(
        load=ClosedLoop(concurrency=trial.clients),
        throughput_images_per_s=prediction.throughput_images_per_s,
        latency_ms=latencies,
        server_ms=NOTHING,
        batches={round(prediction.mean_batch): 100},
    )


def test_saturated_throughput_is_what_executions_allow():
    model = QueueModel(service=SERVICE, overhead_s=0.002, slowdown=Slowdown(((4, 0.5),)), jitter=0.0)
    prediction = model.predict(trial(4, 1, 8), 99)
    assert prediction.throughput_images_per_s == pytest.approx(4 / 0.011, rel=0.03)
    assert prediction.latency_ms == pytest.approx(22, rel=0.03)
    two = model.predict(trial(4, 2, 16), 99)
    assert two.throughput_images_per_s == pytest.approx(2 * 4 / (0.011 * 1.5), rel=0.03)
    assert model.execution_ms(trial(4, 2, 16)) == pytest.approx(16.5)


def test_one_client_waits_for_its_execution_and_the_overhead():
    model = QueueModel(service=SERVICE, overhead_s=0.002, slowdown=Slowdown(((4, 0.5),)), jitter=0.0)
    prediction = model.predict(trial(8, 1, 1), 99)
    assert prediction.latency_ms == pytest.approx(7)
    assert prediction.throughput_images_per_s == pytest.approx(1 / 0.007, rel=0.01)
    assert prediction.mean_batch == 1


def test_jitter_shows_in_the_percentile_and_hardly_in_the_throughput():
    still = QueueModel(service=SERVICE, overhead_s=0, slowdown=Slowdown(), jitter=0.0).predict(trial(4, 1, 8), 99)
    jittered = QueueModel(service=SERVICE, overhead_s=0, slowdown=Slowdown(), jitter=0.1).predict(trial(4, 1, 8), 99)
    assert jittered.throughput_images_per_s == pytest.approx(still.throughput_images_per_s, rel=0.05)
    assert jittered.latency_ms > 1.1 * still.latency_ms


def test_fit_finds_the_parameters_that_made_the_measurements():
    trials = [trial(1, 1, 1), trial(1, 1, 2), trial(4, 1, 8), trial(16, 1, 32), trial(4, 2, 16)]
    points = {each: measured(each, slowdown=0.6, overhead_s=0.003) for each in trials}
    model = fit(points, 99)
    for batch in (1, 2, 4, 8, 16):
        assert model.service(batch) == pytest.approx(SERVICE(batch), rel=0.05)
    assert model.overhead_s == pytest.approx(0.003, rel=0.1)
    assert model.slowdown(4) == pytest.approx(0.6, abs=0.1)
    assert model.jitter == pytest.approx(0.0, abs=1e-6)
    # And what it was not fitted to.
    other = trial(8, 2, 16)
    told, true = model.predict(other, 99), measured(other, slowdown=0.6, overhead_s=0.003)
    assert told.throughput_images_per_s == pytest.approx(true.throughput_images_per_s, rel=0.05)
    assert told.latency_ms == pytest.approx(true.latency_ms.p99, rel=0.1)


def test_answers_one_by_one_are_told_from_answers_together():
    trials = [trial(1, 1, 1), trial(1, 1, 2), trial(8, 1, 16), trial(8, 1, 12)]
    for answers in Answers:
        points = {each: measured(each, answers=answers, overhead_s=0.001) for each in trials}
        assert fit(points, 99).answers is answers


def test_instances_promise_nothing_before_they_are_measured():
    model = fit({each: measured(each) for each in (trial(1, 1, 1), trial(1, 1, 2))}, 99)
    assert model.slowdown(4) == 1.0


def test_a_fit_needs_an_instance_that_is_never_idle():
    with pytest.raises(ValueError, match="service time"):
        fit({trial(1, 1, 1): measured(trial(1, 1, 1))}, 99)


def test_the_simulated_loop_keeps_the_law_of_little():
    served = simulate_closed(Batcher(max_batch=4), SERVICE, concurrency=12, requests=1200, client_s=0.004)
    throughput = 12 / (served.latency_s[200:1000].mean() + 0.004)
    assert throughput == pytest.approx(4 / 0.011, rel=0.02)
