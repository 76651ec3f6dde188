"""benchmarks.perf_analyzer: what it is asked, and what is read from its files."""

import json

import numpy as np
import pytest

from benchmarks.perf_analyzer import (
    Answers,
    ClosedLoop,
    OpenLoop,
    PerfAnalyzer,
    Target,
    answers_in,
    client_times_in,
    write_input_data,
)
from benchmarks.perf_tools import Program
from builder.errors import SpecError

SECOND = 10**9


@pytest.fixture
def perf_analyzer(tmp_path):
    return PerfAnalyzer(program(tmp_path, "echo Perf Analyzer Version 2.47.0"))


def program(folder, script):
    path = folder / "perf_analyzer"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Program(executable=path, environment={"LD_LIBRARY_PATH": "/libraries"})


def test_a_program_that_is_something_else_is_refused(tmp_path):
    with pytest.raises(SpecError, match="expected perf_analyzer, but it says 'bash 5'; run: make tools"):
        PerfAnalyzer(program(tmp_path, "echo bash 5"))


def test_a_closed_loop_over_grpc_can_be_run_by_hand(perf_analyzer, tmp_path):
    target = Target(url="grpc://127.0.0.1:8001", model="shapes", shape=(640, 640, 3), data=tmp_path / "data.json")
    command = perf_analyzer.command_line(target, ClosedLoop(concurrency=4), seconds=3.6)
    assert command[:3] == ["env", "LD_LIBRARY_PATH=/libraries", str(tmp_path / "perf_analyzer")]
    text = " ".join(command[3:])
    assert "-m shapes -i grpc -u 127.0.0.1:8001 -b 1" in text
    assert f"--input-data {tmp_path / 'data.json'} --concurrency-range 4" in text
    # It stretches windows by a fifth and takes three of them.
    assert "-p 1000 -r 3" in text
    assert "--shared-memory" not in text


def test_a_constant_rate_does_not_wait_for_answers(perf_analyzer):
    target = Target(url="http://[::1]:8000", model="shapes", shape=(64, 32, 3), shared_memory=True, batch=2)
    load = OpenLoop(rate_per_s=12.5, distribution="constant")
    text = " ".join(perf_analyzer.command_line(target, load, seconds=1))
    assert "-i http -u [::1]:8000 -b 2 --shape images:64,32,3 --shared-memory system" in text
    assert "-a --request-rate-range 12.5 --request-distribution constant" in text


def test_random_arrivals_are_of_the_rate_and_differ_by_seed(perf_analyzer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target = Target(url="grpc://127.0.0.1:8001", model="shapes", shape=(64, 32, 3))
    load = OpenLoop(rate_per_s=20, distribution="poisson")

    def intervals_us(seed):
        command = perf_analyzer.command_line(target, load, seconds=30, seed=seed)
        assert "-a" in command
        return np.loadtxt(command[command.index("--request-intervals") + 1])

    first = intervals_us(0)
    assert first.sum() / 1e6 == pytest.approx(30, rel=1e-3)
    # An exponential distribution's deviation is its mean.
    assert first.std() == pytest.approx(first.mean(), rel=0.15)
    assert np.array_equal(first, intervals_us(0))
    assert not np.array_equal(first, intervals_us(1))


def moments(times, edges, answer="[1.5]"):
    requests = [
        f'{{"timestamp":{sent},"request_inputs":{{"images":null}},"response_timestamps":[{answered}],'
        f'"response_outputs":[{{"detections":"{answer}"}}]}}'
        for sent, answered in times
    ]
    text = f'{{"experiments":[{{"requests":[{",".join(requests)}],"window_boundaries":{json.dumps(edges)}}}]}}'
    return text.encode("latin-1")


def test_what_was_answered_during_the_warm_up_or_after_the_end_does_not_count():
    times = [(1 * SECOND, 2 * SECOND), (2 * SECOND, 4 * SECOND), (4 * SECOND, 7 * SECOND), (7 * SECOND, 9 * SECOND)]
    answers = answers_in(moments(times, [1 * SECOND, 4 * SECOND, 8 * SECOND]), warm_up_s=2)
    assert (answers.opens_ns, answers.closes_ns) == (3 * SECOND, 8 * SECOND)
    assert answers.latencies_s.tolist() == [2.0, 3.0]


def test_an_answer_whose_bytes_are_no_text_is_read():
    answers = answers_in(moments([(1, 2)], [0, 3], answer="\x80\xff"), warm_up_s=0)
    assert answers.latencies_s == pytest.approx([1e-9])


def test_a_window_without_answers_is_empty():
    assert isinstance(answers := answers_in(moments([], [0, 3]), warm_up_s=0), Answers)
    assert len(answers.latencies_s) == 0


def test_the_clients_own_times_are_read_in_milliseconds():
    times = client_times_in("Concurrency,Inferences/Second,Client Send,Client Recv\n2,9.1,234,5\n")
    assert (times.send, times.receive) == (0.234, 0.005)
    assert client_times_in("Concurrency,Inferences/Second\n2,9.1\n") is None
    assert client_times_in("") is None


def test_the_same_pictures_are_written_once_and_read_back_as_they_are(tmp_path):
    import base64

    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    path = write_input_data(images, folder=tmp_path / "inputs")
    assert write_input_data(images, folder=tmp_path / "inputs") == path
    steps = json.loads(path.read_text())["data"]
    assert [step["images"]["shape"] for step in steps] == [[4, 5, 3]] * 2
    assert base64.b64decode(steps[1]["images"]["b64"]) == images[1].tobytes()
