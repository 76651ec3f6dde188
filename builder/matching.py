"""Which box is which: greedy one-to-one matching within an image and a class.

Legend: A, B boxes of two sets, P pairs; 4 = x1 y1 x2 y2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def iou_matrix(boxes_A4: NDArray[np.float64], boxes_B4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union, [A, B]; 0 where neither box has an area."""
    low = np.maximum(boxes_A4[:, None, :2], boxes_B4[None, :, :2])
    high = np.minimum(boxes_A4[:, None, 2:], boxes_B4[None, :, 2:])
    shared_AB = np.clip(high - low, 0, None).prod(-1)
    areas_A, areas_B = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (boxes_A4, boxes_B4))
    union_AB = areas_A[:, None] + areas_B - shared_AB
    iou_AB: NDArray[np.float64] = np.divide(shared_AB, union_AB, out=np.zeros_like(shared_AB), where=union_AB > 0)
    return iou_AB


def match(
    boxes_A4: NDArray[np.float64],
    classes_A: NDArray[np.int64],
    boxes_B4: NDArray[np.float64],
    classes_B: NDArray[np.int64],
    least_iou: float,
) -> NDArray[np.int64]:
    """Pairs [P, 2] of indices: each of A in its order takes the best free one of B of its class, as COCO's rules do."""
    free_AB = iou_matrix(boxes_A4, boxes_B4) * (classes_A[:, None] == classes_B)
    pairs = []
    for a in np.flatnonzero((free_AB >= least_iou).any(1)):
        b = int(free_AB[a].argmax())
        if free_AB[a, b] >= least_iou:
            pairs.append((int(a), b))
            free_AB[:, b] = 0
    return np.array(pairs, np.int64).reshape(-1, 2)
