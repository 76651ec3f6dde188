"""The line that says whether the server batches, and why not."""

from __future__ import annotations

import pytest

from benchmarks.load.batching import batching_line, instances
from benchmarks.load.points import ClosedLoop, Latencies, LoadPoint, LoadReport, OpenLoop, ServerTimes

CONFIG = {
    "name": "detector",
    "backend": "onnxruntime",
    "max_batch_size": 8,
    "input": [{"name": "images", "dims": ["640", "640", "3"]}],
    "instance_group": [{"name": "detector_0", "kind": "KIND_CPU", "count": 2}],
    "dynamic_batching": {"max_queue_delay_microseconds": "500"},
}


def without(key: str) -> dict:
    return {name: value for name, value in CONFIG.items() if name != key}


def point(
    load, *, images_per_s: float = 40.0, mean_ms: float = 200.0, batches: dict[int, int], queue: float = 0.5
) -> LoadPoint:
    return LoadPoint(
        load=load,
        throughput_images_per_s=images_per_s,
        latency_ms=Latencies(mean=mean_ms, p50=mean_ms, p90=mean_ms, p95=mean_ms, p99=mean_ms),
        server_ms=ServerTimes(queue=queue * mean_ms, compute_input=0, compute_infer=mean_ms / 4, compute_output=0),
        batches=batches,
    )


EIGHT = point(ClosedLoop(concurrency=8), batches={1: 100})


def report(*points: LoadPoint) -> LoadReport:
    return LoadReport(model="detector", gpu=None, points=points, service_ms={}, environment={})


def test_the_mean_is_of_the_highest_load():
    one = point(ClosedLoop(concurrency=1), mean_ms=25, batches={1: 100})
    eight = point(ClosedLoop(concurrency=8), batches={2: 10, 4: 30})
    for points in ((one, eight), (eight, one)):
        assert batching_line(report(*points), CONFIG) == (
            "batching: 3.50 images an execution at 8 at a time, of 8 at most"
        )


@pytest.mark.parametrize("load", [ClosedLoop(concurrency=8), OpenLoop(rate_per_s=40, distribution="poisson")])
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({**CONFIG, "max_batch_size": 1}, "max_batch_size is 1; build with --max-batch 8"),
        (without("max_batch_size"), "max_batch_size is 1; build with --max-batch 8"),
        (
            {**CONFIG, "max_batch_size": 1, "platform": "tensorrt_plan"},
            "max_batch_size or the plan's profile maximum is 1",
        ),
        (
            {
                **CONFIG,
                "optimization": {
                    "execution_accelerators": {
                        "gpu_execution_accelerator": [
                            {"name": "tensorrt", "parameters": {"trt_profile_max_shapes": "images:1x640x640x3"}}
                        ]
                    }
                },
            },
            "the profile's maximum is 1 though max_batch_size is 8",
        ),
        (without("dynamic_batching"), "no dynamic_batching"),
        ({**without("dynamic_batching"), "sequence_batching": {}}, "sequence_batching"),
        ({**CONFIG, "dynamic_batching": {}}, "the delay is 0"),
        ({**CONFIG, "input": [{"name": "images", "dims": ["-1", "-1", "3"]}]}, "the input's dims vary"),
        ({**CONFIG, "instance_group": [{"count": 8}]}, "8 instances take 8.0 requests as they come"),
        (CONFIG, "none of the known reasons"),
    ],
)
def test_a_configuration_that_does_not_batch_is_named(load, config, reason):
    line = batching_line(report(point(load, batches={1: 100})), config)
    assert line.startswith(f"batching: 1.00 images an execution at {load}: ")
    assert reason in line
    assert "\n" not in line


def test_a_client_that_sends_one_at_a_time_is_named():
    line = batching_line(report(point(ClosedLoop(concurrency=1), mean_ms=25, batches={1: 100})), CONFIG)
    assert "the client sends one at a time" in line


def test_arrivals_that_hardly_meet_are_no_load():
    quiet = point(OpenLoop(rate_per_s=5, distribution="poisson"), images_per_s=5, mean_ms=25, batches={1: 100})
    assert "0.1 requests are under way" in batching_line(report(quiet), CONFIG)


@pytest.mark.parametrize(
    ("backend", "reason"), [("python", "takes them on as they come"), ("onnxruntime", "what holds them is before it")]
)
def test_requests_that_wait_elsewhere_cannot_meet_in_the_queue(backend, reason):
    elsewhere = point(ClosedLoop(concurrency=8), batches={1: 100}, queue=0.01)
    line = batching_line(report(elsewhere), {**CONFIG, "backend": backend})
    assert "requests wait 2.0 of 200 ms in the queue: " in line
    assert reason in line


def test_a_batch_that_the_client_made_is_not_the_servers():
    config = {**CONFIG, "max_batch_size": 4}
    four = point(ClosedLoop(concurrency=8), batches={4: 100})
    assert "of 4 at most" in batching_line(report(four), config)
    assert "max_batch_size is 4" in batching_line(report(four), config, images_per_request=4)


def test_an_ensemble_points_at_its_steps():
    steps = {"step": [{"model_name": "decode"}, {"model_name": "detector"}]}
    for config in ({"platform": "ensemble", "ensemble_scheduling": steps}, {"ensemble_scheduling": steps}):
        assert "its steps batch, each for itself: decode, detector" in batching_line(report(EIGHT), config)


def test_what_grpc_wraps_in_config_is_read_too():
    assert batching_line(report(EIGHT), {"config": CONFIG}) == batching_line(report(EIGHT), CONFIG)


def test_a_server_that_counted_nothing_is_said():
    assert "not known" in batching_line(report(point(ClosedLoop(concurrency=8), batches={})), CONFIG)


def test_instances_are_counted_on_every_gpu():
    assert instances(CONFIG) == 2
    assert instances({"instance_group": [{"count": 2, "gpus": [0, 1]}, {"gpus": [2]}]}) == 5
    assert instances({}) == 1
