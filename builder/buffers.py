"""Buffers that tensors share: each lives from the step that fills it to the last that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# CUDA's allocations, and with them the tensors in a runtime's block, begin at multiples of this.
ALIGNMENT_BYTES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Buffer:
    """One buffer of a graph; views and tensors that are made in place share it."""

    first_step: int
    """That fills it."""
    last_step: int
    """That reads it."""
    bytes_fixed: int
    bytes_per_image: int

    def bytes(self, batch: int) -> int:
        """Its size for a batch, aligned."""
        size = self.bytes_fixed + batch * self.bytes_per_image
        return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def live_bytes(buffers: Sequence[Buffer], batch: int) -> int:
    """The most that is alive at one step: what no allocator can do with less of."""
    change: dict[int, int] = {}
    for each in buffers:
        size = each.bytes(batch)
        change[each.first_step] = change.get(each.first_step, 0) + size
        change[each.last_step + 1] = change.get(each.last_step + 1, 0) - size
    most = alive = 0
    for step in sorted(change):
        alive += change[step]
        most = max(most, alive)
    return most


def placed_bytes(buffers: Sequence[Buffer], batch: int) -> int:
    """The size of one block that holds them all, each in the smallest gap that it fits when its turn comes.

    It is what onnxruntime's memory pattern does (best fit in execution order), so gaps that nothing fits count too.
    """
    placed: list[tuple[int, int, int]] = []
    """Of what is alive: offset, end, last step; by offset."""
    block = 0
    for each in sorted(buffers, key=lambda buffer: buffer.first_step):
        size = each.bytes(batch)
        if not size:
            continue
        placed = [other for other in placed if other[2] >= each.first_step]
        offset = _smallest_gap(placed, size)
        placed = sorted([*placed, (offset, offset + size, each.last_step)])
        block = max(block, offset + size)
    return block


def _smallest_gap(placed: Sequence[tuple[int, int, int]], size: int) -> int:
    """The offset of the smallest gap of at least ``size`` bytes; behind the last where there is none."""
    end, best, best_size = 0, None, 0
    for offset, next_end, _ in placed:
        gap = offset - end
        if gap >= size and (best is None or gap < best_size):
            best, best_size = end, gap
        end = max(end, next_end)
    return end if best is None else best
