"""benchmarks.load.windows."""

import numpy as np
import pytest

from benchmarks.load.counters import Counters
from benchmarks.load.points import ClientTimes, ClosedLoop, Usage
from benchmarks.load.windows import LoadWindow, point_of


def window(seconds, latencies_s, **more):
    counters = Counters(
        requests=len(latencies_s), parts_ns={"queue": 10**6}, executions={1: len(latencies_s)}, infer_ns={1: 1}
    )
    return LoadWindow(
        **{
            "seconds": seconds,
            "batch": 1,
            "latencies_s": np.array(latencies_s),
            "counters": counters,
            "client_ms": None,
            "usage": Usage(),
            "delayed_share": 0.0,
            **more,
        }
    )


def test_requests_of_all_windows_count_alike():
    point = point_of(ClosedLoop(concurrency=1), [window(1, [0.1] * 9), window(3, [0.2])])
    assert point.throughput_images_per_s == 10 / 4
    assert point.latency_ms.mean == pytest.approx(110)
    assert point.latency_ms.p50 == pytest.approx(100)
    assert point.latency_ms.p99 == pytest.approx(191)
    assert point.windows_images_per_s == (9.0, 1 / 3)
    assert [each.p99 for each in point.windows_latency_ms] == pytest.approx([100, 200])
    assert point.server_ms.queue == pytest.approx(0.2)
    assert point.batches == {1: 10}


def test_throughput_is_in_images_where_a_request_has_several():
    assert point_of(ClosedLoop(concurrency=1), [window(2, [0.1] * 3, batch=4)]).throughput_images_per_s == 6


def test_memory_is_at_its_most_and_shares_are_means():
    usages = [Usage(cpu_share=0.5, server_memory_bytes=7), Usage(cpu_share=0.7, server_memory_bytes=5)]
    point = point_of(ClosedLoop(concurrency=1), [window(1, [0.1], usage=usage) for usage in usages])
    assert point.usage == Usage(cpu_share=pytest.approx(0.6), server_memory_bytes=7)


def test_client_times_are_of_the_windows_that_have_them():
    windows = [window(1, [0.1]), window(1, [0.1], client_ms=ClientTimes(send=1.0, receive=0.5))]
    assert point_of(ClosedLoop(concurrency=1), windows).client_ms == ClientTimes(send=1.0, receive=0.5)
    assert point_of(ClosedLoop(concurrency=1), windows[:1]).client_ms is None
