"""Each reading: its figure by its formula, and both sides of its threshold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.diagnose.evidence import Missing
from benchmarks.diagnose.reading import Reading, Verdict
from benchmarks.diagnose.report import Diagnosis, diagnosis
from tests.unit.benchmarks.diagnose import evidences as made

MB = 1_000_000


def diagnosed(**changes: Any) -> Diagnosis:
    return diagnosis(made.evidence(**changes), {"cores": "2"})


def reading(name: str, **changes: Any) -> Reading:
    (found,) = [each for each in diagnosed(**changes).readings if each.name.endswith(name)]
    return found


def verdict(name: str, **changes: Any) -> Verdict:
    return reading(name, **changes).verdict


def test_a_healthy_server_is_beyond_nothing() -> None:
    healthy = diagnosed()
    assert [each.name for each in healthy.readings if each.verdict is not Verdict.FINE] == []
    assert healthy.all_met
    assert "nothing measured is beyond its threshold" in healthy.to_text()


def test_memory_that_no_runtime_allocated_is_a_share_of_what_the_server_holds() -> None:
    name = "device memory, used / allocated"
    assert reading(name).figures["unallocated_share"] == pytest.approx(200 / 1200)
    assert verdict(name, gpus=(made.gpu(allocated_bytes=700 * MB),)) is Verdict.BEYOND
    # Where the driver does not tell whose the memory is, it is the whole device's, and said to be.
    whole = reading(name, gpus=(made.gpu(server_bytes=Missing("in a container")),))
    assert whole.figures["held_bytes"] == 1_500 * MB
    assert "held by the whole device" in whole.value


def test_the_bus_is_judged_by_its_mean_and_by_the_width_of_its_link() -> None:
    assert reading("bus use").figures["bus_use"] == pytest.approx(2 / 15.76)
    assert verdict("bus use", gpus=(made.gpu(bus_bytes_per_s=(13e9,)),)) is Verdict.BEYOND
    narrow = reading("bus use", gpus=(made.gpu(is_full_link=False),))
    assert narrow.verdict is Verdict.BEYOND
    assert narrow.advice.startswith("the link is narrower")


def test_a_gap_is_the_time_that_instances_do_not_compute_by_execution() -> None:
    # 10 s of one instance, less 9.9 s of computing, in 50 executions.
    assert reading("gaps between executions").figures["gap_ms"] == pytest.approx(2.0)
    long = made.counters(infer_ns={2: 9_000 * MB})
    assert reading("gaps between executions", models=(made.model(counters=long),)).verdict is Verdict.BEYOND
    two = reading("gaps between executions", models=(made.model(instances=2),))
    assert two.figures["gap_ms"] == pytest.approx(202.0)


def test_a_gap_without_requests_that_wait_is_idleness_and_no_figure() -> None:
    idle = made.counters(parts_ns={"queue": 0}, infer_ns={2: 1_000 * MB})
    found = reading("gaps between executions", models=(made.model(counters=idle),))
    assert found.verdict is Verdict.NOT_MEASURABLE
    assert "hardly a request waited" in found.advice
    assert found.figures == {}


def test_a_model_that_may_answer_later_gets_no_figure_of_triton_s_compute_times() -> None:
    later = (made.model(may_answer_later=True),)
    for name in ("gaps between executions", "where a request's time goes"):
        found = reading(name, models=later)
        assert found.verdict is Verdict.NOT_MEASURABLE
        assert found.value == ""
        assert "may take a call's images and answer later" in found.advice
    assert (
        "The queue took 4.0 ms of each of 100 requests" in reading("where a request's time goes", models=later).advice
    )


def test_the_times_of_a_request_are_means_and_judged_by_their_shares() -> None:
    name = "where a request's time goes"
    assert (
        reading(name).value
        == "40.0 ms in the server: queue 4.0 (10%), input 1.0 (2%), infer 34.0 (85%), output 1.0 (2%)"
    )
    queued = made.counters(parts_ns={"queue": 3_000 * MB, "compute_infer": 1_000 * MB})
    assert verdict(name, models=(made.model(counters=queued),)) is Verdict.BEYOND
    copied = made.counters(parts_ns={"compute_input": 500 * MB, "compute_output": 400 * MB})
    assert verdict(name, models=(made.model(counters=copied),)) is Verdict.BEYOND


def test_single_images_are_beyond_only_while_requests_wait_and_batches_may_be() -> None:
    single = made.counters(executions={1: 100})
    assert verdict(": executions", models=(made.model(counters=single),)) is Verdict.BEYOND
    assert verdict(": executions", models=(made.model(counters=single, max_batch_size=1),)) is Verdict.FINE
    alone = made.counters(executions={1: 100}, parts_ns={"queue": 0})
    assert verdict(": executions", models=(made.model(counters=alone),)) is Verdict.FINE


def test_pending_requests_are_held_against_what_the_model_can_have_under_way() -> None:
    assert reading("pending requests").figures == {"pending_mean": 3.0, "pending_max": 4.0}
    assert verdict("pending requests", models=(made.model(pending=(17.0,)),)) is Verdict.BEYOND
    assert verdict("pending requests", models=(made.model(pending=(17.0,), instances=2),)) is Verdict.FINE
    # A queue for four is nearly full with four, whatever would keep the model busy.
    assert verdict("pending requests", models=(made.model(pending=(4.0,), max_queue_size=4),)) is Verdict.BEYOND
    assert verdict("pending requests", models=(made.model(pending=Missing("no metrics")),)) is Verdict.NOT_MEASURABLE


def test_without_requests_nothing_is_said_of_them() -> None:
    silent = made.counters(requests=0, parts_ns={}, executions={}, infer_ns={})
    models = (made.model(counters=silent, server_ns=0),)
    for name in ("gaps between executions", "where a request's time goes", ": executions"):
        found = reading(name, models=models)
        assert found.verdict is Verdict.NOT_MEASURABLE
        assert found.advice.startswith("no request came while it was watched")


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("CPU throttling", {"throttled_share": 0.02}, Verdict.BEYOND),
        ("CPU throttling", {"throttled_share": Missing("no limit")}, Verdict.NOT_MEASURABLE),
        ("CPU steal", {"steal_share": 0.03}, Verdict.BEYOND),
        ("waiting for a core", {"waiting_share": 0.3}, Verdict.BEYOND),
        ("waiting for a core", {"waiting_share": Missing("not counted")}, Verdict.NOT_MEASURABLE),
        ("server memory", {"memory_bytes": (20_000 * MB, 20_000 * MB)}, Verdict.BEYOND),
        ("server memory", {"memory_bytes": (300 * MB, 310 * MB)}, Verdict.BEYOND),
        ("server memory", {"memory_bytes": (3_000 * MB, 3_050 * MB)}, Verdict.FINE),
        ("shared memory", {"shared_memory_free": 0.05}, Verdict.BEYOND),
        # With a GPU, cores may well be idle.
        ("CPU", {"idle_share": 0.5}, Verdict.FINE),
    ],
)
def test_the_machine_has_a_threshold_for_each_figure(name: str, change: dict[str, Any], expected: Verdict) -> None:
    (found,) = [each for each in diagnosed(machine=made.machine(**change)).readings if each.name == name]
    assert found.verdict is expected


def test_idle_cores_are_beyond_where_the_cpu_computes_and_requests_wait() -> None:
    idle = made.machine(idle_share=0.5)
    waiting, empty = made.model(may_answer_later=True), made.model(may_answer_later=True, pending=(0.0, 0.0))
    assert verdict("CPU", machine=idle, models=(waiting,), gpus=made.NO_GPU) is Verdict.BEYOND
    assert verdict("CPU", machine=idle, models=(empty,), gpus=made.NO_GPU) is Verdict.FINE


def test_other_processes_are_beyond_where_the_cpu_computes() -> None:
    busy = made.machine(idle_share=0.0, steal_share=0.0, server_cpu_s=0.0)
    found = reading("CPU of other processes", machine=busy, gpus=made.NO_GPU)
    assert found.verdict is Verdict.BEYOND
    assert found.figures == {"others_share": 1.0}
    assert verdict("CPU of other processes", machine=busy) is Verdict.FINE
    quiet = made.machine(idle_share=0.95, steal_share=0.0, server_cpu_s=0.0)
    assert verdict("CPU of other processes", machine=quiet, gpus=made.NO_GPU) is Verdict.FINE


def test_memory_is_told_as_a_multiple_of_the_models_files() -> None:
    assert "301 MB in 2 processes, 100 times the 3.0 MB of its models' files" in reading("server memory").value
    unknown = reading("server memory", machine=made.machine(model_bytes=Missing("the repository cannot be read")))
    assert "the repository cannot be read" in unknown.value


def test_without_gpu_and_from_another_machine_each_figure_says_why_it_is_missing() -> None:
    elsewhere = Missing("the server is at triton.plant: run diagnose on its machine")
    text = diagnosed(machine=elsewhere, gpus=elsewhere).to_text()
    for name in ("device memory, used / allocated", "bus use", "CPU", "CPU throttling", "server memory"):
        assert f"-       {name}: not measurable here: the server is at triton.plant" in text


def test_the_values_are_those_of_the_text_and_what_is_missing_has_none() -> None:
    values = json.loads(json.dumps(diagnosed(gpus=made.NO_GPU).to_json()))
    by_name = {each["name"]: each for each in values["readings"]}
    assert by_name["bus use"] == {
        "name": "bus use",
        "value": "",
        "threshold": "at most 80% of the link",
        "verdict": "not measurable here",
        "advice": "no GPU: no NVIDIA driver answers",
        "figures": {},
    }
    assert by_name["shapes: failed requests"]["figures"] == {"failed": 0, "answered": 100}


def test_beyond_comes_with_what_to_do() -> None:
    text = diagnosed(models=(made.model(counters=made.counters(failed=3)),)).to_text()
    assert "BEYOND  shapes: failed requests: 3 of 103 (threshold: none)" in text
    assert "        -> refused by the queue's bound" in text
    assert "beyond its threshold: shapes: failed requests" in text
