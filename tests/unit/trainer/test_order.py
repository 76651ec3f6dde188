"""Every sample once an epoch, the same whoever asks."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.order import Order, Position, RemainingBatches
from trainer.seeded_dataset import counted_randomness


@given(samples=st.integers(1, 60), batch=st.integers(1, 20), world=st.integers(1, 5), epoch=st.integers(0, 3))
def test_shares_of_all_processes_are_the_global_batch_of_one(samples: int, batch: int, world: int, epoch: int) -> None:
    order = Order(seed=7, samples=samples, batch=batch)
    for step in range(order.steps_per_epoch):
        together = [key for rank in range(world) for key in order.share(epoch, step, rank, world)]
        assert together == order.share(epoch, step)
        assert len(together) == batch


@given(samples=st.integers(1, 60), batch=st.integers(1, 20))
def test_an_epoch_holds_every_sample_and_fills_up_from_its_beginning(samples: int, batch: int) -> None:
    order = Order(seed=0, samples=samples, batch=batch)
    keys = [key for step in range(order.steps_per_epoch) for key in order.share(2, step)]
    assert sorted(key.image for key in keys[:samples]) == list(range(samples))
    assert [key.image for key in keys[samples:]] == [keys[i % samples].image for i in range(len(keys) - samples)]
    assert [key.position for key in keys] == list(range(len(keys)))


def test_order_changes_with_the_epoch_and_the_seed_and_is_the_same_in_every_release() -> None:
    first = Order(seed=0, samples=10, batch=4)
    assert first.permutation(0).tolist() != first.permutation(1).tolist()
    assert first.permutation(0).tolist() != Order(seed=1, samples=10, batch=4).permutation(0).tolist()
    # A checkpoint of today goes on with tomorrow's numpy.
    assert first.permutation(0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]


def test_what_remains_is_the_rest_of_the_whole() -> None:
    order = Order(seed=3, samples=10, batch=4)
    whole = list(RemainingBatches(order=order, start=Position(0, 0), epochs=3))
    rest = RemainingBatches(order=order, start=Position(1, 2), epochs=3)
    assert list(rest) == whole[5:]
    assert len(rest) == len(whole) - 5
    assert list(RemainingBatches(order=order, start=Position(2, 3), epochs=3)) == []


def test_counted_randomness_is_a_function_of_its_key_and_leaves_no_trace() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    untouched = [drawn(), drawn()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = drawn()
    with counted_randomness(1, 2, 3):
        inside = drawn()
    with counted_randomness(1, 2, 4):
        assert drawn() != inside
    with counted_randomness(1, 2, 3):
        assert drawn() == inside
    assert [before, drawn()] == untouched
