"""benchmarks.closed_loop with real threads."""

import threading
import time

import pytest

from benchmarks.closed_loop import measure


def test_every_caller_has_one_call_under_way_and_its_own_first_picture():
    lock, under_way, pictures = threading.Lock(), {}, {}

    def caller(name):
        def call(picture):
            with lock:
                assert name not in under_way
                under_way[name] = picture
                pictures.setdefault(name, []).append(picture)
            time.sleep(0.001)
            with lock:
                del under_way[name]

        return call

    window = measure([caller(name) for name in range(3)], settle_s=0.01, duration_s=0.1)
    assert set(pictures) <= {0, 1, 2}
    for name, seen in pictures.items():
        assert seen == list(range(name, name + len(seen)))
    assert 0 < window.images < sum(map(len, pictures.values()))


def test_callers_run_at_the_same_time():
    both_began = threading.Barrier(2, timeout=60)

    def caller(first_picture):
        return lambda picture: both_began.wait() if picture == first_picture else time.sleep(0.001)

    window = measure([caller(0), caller(1)], settle_s=0.01, duration_s=0.05)
    assert window.images > 0


def test_images_of_a_batch_are_counted_each():
    window = measure([lambda _: time.sleep(0.001)], settle_s=0.001, duration_s=0.05, images_per_call=4)
    assert window.images == 4 * len(window.latencies_s)


def test_a_failing_caller_stops_the_others_and_its_error_is_raised():
    def fail(picture):
        if picture > 3:
            raise RuntimeError("out of pictures")

    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="out of pictures"):
        measure([fail, lambda _: time.sleep(0.001)], settle_s=60, duration_s=60)
    assert set(threading.enumerate()) <= before


def test_interrupted_before_every_caller_has_come_it_leaves_none(monkeypatch):
    wait = threading.Barrier.wait

    def interrupted(barrier, timeout=None):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return wait(barrier, timeout)

    before = set(threading.enumerate())
    monkeypatch.setattr(threading.Barrier, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure([lambda _: None] * 3, settle_s=60, duration_s=60)
    assert set(threading.enumerate()) <= before


def test_a_window_stays_open_until_a_first_answer_came():
    window = measure([lambda _: time.sleep(0.1)], settle_s=0.001, duration_s=0.01)
    assert window.images >= 1
    assert window.duration_s > 0.01
