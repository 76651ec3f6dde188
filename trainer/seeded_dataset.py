"""Ultralytics' data set with counted randomness: a sample is a function of the seed, the epoch and its place in it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics.data.augment import Compose, Mosaic
from ultralytics.data.dataset import YOLODataset

from trainer.order import SampleKey

SAMPLE_STREAM, STEP_STREAM, SETUP_STREAM = 1, 2, 3
"""What a seed is for, beside the order of the samples (0): no two purposes draw the same numbers."""
_MIXING = ("mosaic", "mixup", "cutmix", "copy_paste")


@contextlib.contextmanager
def counted_randomness(*key: int) -> Iterator[None]:
    """Seed python's, numpy's and torch's CPU generators by ``key``; afterwards they are as they were."""
    python, legacy, tensors = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    seed_all(*key)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.random.set_rng_state(tensors)


def seed_all(*key: int) -> None:
    """Seed python's, numpy's and torch's generators, those of the GPUs included, by ``key``."""
    first, second, third = (int(word) for word in np.random.SeedSequence(key).generate_state(3))
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(third)


class ListedDataset(YOLODataset):
    """The images that the builder's reader has found, in its order; Ultralytics does not look for them again."""

    def __init__(self, paths: Sequence[Path], **options: Any) -> None:
        """Scan the labels of ``paths``, which are sorted; ``options`` are YOLODataset's."""
        self._paths = [str(path) for path in paths]
        super().__init__(img_path=self._paths, **options)

    def get_img_files(self, img_path: object) -> list[str]:
        """The images as they are listed."""
        return list(self._paths)


class CountedDataset(ListedDataset):
    """Training samples by SampleKey; augmentations that mix images end at ``close_mosaic_at``."""

    def __init__(self, paths: Sequence[Path], *, seed: int, close_mosaic_at: int, hyp: Any, **options: Any) -> None:
        """``close_mosaic_at`` is the first epoch without mosaic, mixup, cutmix and copy-paste."""
        super().__init__(paths, hyp=hyp, augment=True, **options)
        self._seed = seed
        self._close_mosaic_at = close_mosaic_at
        self._open = self.transforms
        closed = copy(hyp)
        for name in _MIXING:
            setattr(closed, name, 0.0)
        self._closed = self.build_transforms(closed)
        _choose_from_all_images(self._open)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:  # type: ignore[override]
        """The sample of a key: ``img`` uint8 [3, H, W], ``cls`` [N, 1], ``bboxes`` [N, 4] as fractions."""
        epoch, position, image = key
        self.transforms = self._closed if epoch >= self._close_mosaic_at else self._open
        with counted_randomness(SAMPLE_STREAM, self._seed, epoch, position):
            sample: dict[str, Any] = super().__getitem__(image)
        return sample

    def load_image(self, *args: Any, **kwargs: Any) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[int, int]]:
        """An image of its own: augmentations in place would change the copy that is kept for the next use."""
        image, original_HW, resized_HW = super().load_image(*args, **kwargs)
        return image.copy(), original_HW, resized_HW


def _choose_from_all_images(transform: object) -> None:
    """Have Mosaic draw from all images: its buffer of recent ones depends on what the process has loaded before."""
    if isinstance(transform, Mosaic):
        transform.buffer_enabled = False
    for child in transform.transforms if isinstance(transform, Compose) else ():
        _choose_from_all_images(child)
    if (before := getattr(transform, "pre_transform", None)) is not None:
        _choose_from_all_images(before)
