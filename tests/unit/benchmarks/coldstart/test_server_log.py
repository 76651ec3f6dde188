"""What Triton's log tells of a start."""

import pytest

from benchmarks.coldstart.server import load_times

LOG = """\
W1122 07:58:49.997545 13686 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"
I1122 07:58:49.998738 13686 model_lifecycle.cc:472] "loading: shapes:1"
I1122 07:58:50.001347 13686 python_be.cc:2249] "TRITONBACKEND_ModelInstanceInitialize: shapes_0_0 (CPU device 0)"
I1122 07:58:53.017869 13686 model_lifecycle.cc:839] "successfully loaded 'shapes'"
I1122 07:58:53.018196 13686 server.cc:604]
| shapes | 1       | READY  |
I1122 07:58:53.022839 13686 grpc_server.cc:2558] "Started GRPCInferenceService at 127.0.0.1:50713"
I1122 07:58:53.023169 13686 http_server.cc:4713] "Started HTTPService at 127.0.0.1:37253"
"""


def test_up_and_load_come_from_differences_within_the_log() -> None:
    times = load_times(LOG, "shapes", ready_after_s=3.13)
    assert times.load_s == pytest.approx(3.019131)
    assert times.up_s == pytest.approx(3.13 - 3.024431)


def test_an_older_log_without_quotation_marks_is_read_too() -> None:
    assert load_times(LOG.replace('"', ""), "shapes", 3.13) == load_times(LOG, "shapes", 3.13)


def test_a_start_over_midnight_takes_no_negative_time() -> None:
    late = LOG.replace("07:58:49", "23:59:58").replace("07:58:50", "23:59:59").replace("07:58:53", "00:00:01")
    assert load_times(late, "shapes", 3.13).load_s == pytest.approx(2.019131)


@pytest.mark.parametrize("log", ["", LOG.replace("loading: ", "reading: "), LOG.replace("shapes", "other")])
def test_what_the_log_does_not_say_is_not_made_up(log: str) -> None:
    times = load_times(log, "shapes", 3.13)
    assert times.up_s is None
    assert times.load_s is None
