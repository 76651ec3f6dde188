"""Batches of the training, loaded by this process or by others."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from trainer.order import RemainingBatches


def loading(dataset: Any, remaining: RemainingBatches, workers: int, *, pinned: bool) -> Iterator[Any]:
    """The remaining batches of ``dataset``, in order; with ``workers`` processes, four of each ahead."""
    return iter(
        DataLoader(
            dataset,
            batch_sampler=remaining,
            num_workers=workers,
            collate_fn=dataset.collate_fn,
            pin_memory=pinned,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_undisturbed,
            # A generator of its own: the loader draws a number for its workers that nothing here uses.
            generator=torch.Generator(),
        )
    )


def _undisturbed(worker: int) -> None:
    """A loading process ends with its training, not by the signals that ask the training to save."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
