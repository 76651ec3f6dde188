"""benchmarks.load.counters."""

import pytest

from benchmarks.load.counters import counters_from


def part(count, ns):
    return {"count": count, "ns": ns}


def stats(*, count=0, infer_ns=0, batches=None, as_text=False):
    number = str if as_text else int
    times = {"success": {"count": number(count)}, "compute_infer": {"count": number(count), "ns": number(infer_ns)}}
    sizes = [
        {"batch_size": number(size), "compute_infer": {"count": number(executions), "ns": number(ns)}}
        for size, (executions, ns) in (batches or {}).items()
    ]
    return {"inference_stats": times, "batch_stats": sizes}


@pytest.mark.parametrize("as_text", [True, False])
def test_both_protocols_say_the_same(as_text):
    answer = {"model_stats": [stats(count=6, infer_ns=60 * 10**6, batches={1: (2, 20), 4: (1, 40)}, as_text=as_text)]}
    counters = counters_from(answer)
    assert counters.requests == 6
    assert counters.server_ms.compute_infer == 10.0
    # What protobuf leaves out is zero.
    assert counters.server_ms.queue == counters.failed == 0
    assert counters.batches == {1: 2, 4: 1}


def test_a_window_counts_what_came_in_it():
    before = counters_from({"model_stats": [stats(count=1, infer_ns=5, batches={8: (1, 5)})]})
    after = counters_from({"model_stats": [stats(count=5, infer_ns=4 * 10**6 + 5, batches={8: (1, 5), 2: (2, 10**6)})]})
    window = after - before
    assert window.requests == 4
    # The warm-up's batch of 8 was before the window.
    assert window.batches == {2: 2}
    assert window.service_ms == {2: 0.5}
    assert window.server_ms.compute_infer == 1.0


def test_versions_of_a_model_count_together():
    counters = counters_from(
        {"model_stats": [stats(count=1, batches={1: (1, 1)}), stats(count=2, batches={1: (2, 1)})]}
    )
    assert counters.requests == 3
    assert counters.batches == {1: 3}


def test_a_model_that_was_never_asked_has_no_times():
    counters = counters_from({"model_stats": [{"name": "shapes"}]})
    assert counters.server_ms.total == 0
    assert counters.service_ms == {}
