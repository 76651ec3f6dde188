"""The arithmetic of a fleet's size: each formula with its units, and the line that works it out for the reader."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from builder.gpus import known_gpus

if TYPE_CHECKING:
    from builder.gpus import GpuTarget

REDUNDANCY = 1.5
"""For peaks, two versions at once, and what else the average hides."""
BUS_SHARE = 0.8
"""The part of a bus beyond which transfers bind."""
HOURS_A_MONTH = 730
# PCI Express base specifications 3.0 to 5.0: transfers a second on each lane, 128 of 130 bits of which are data.
_GIGATRANSFERS_PER_S = {3: 8, 4: 16, 5: 32}
_LANES = 16
# NVIDIA A2 datasheet: "PCIe Gen4 x8". The other boards of the table have 16 lanes.
_FEWER_LANES = {"a2": 8}


def gpus_needed(images_per_s: float, images_per_s_of_one: float, redundancy: float) -> int:
    """``ceil(total rate / throughput of one GPU x redundancy)``, at least one."""
    if min(images_per_s, images_per_s_of_one, redundancy) <= 0:
        raise ValueError(f"expected numbers above 0, got {images_per_s}, {images_per_s_of_one}, {redundancy}")
    exact = images_per_s / images_per_s_of_one * redundancy
    # 0.1 + 0.2 is above 0.3: what is a whole number but for the last digits is that number.
    return max(1, math.ceil(exact * (1 - 1e-12)))


def worked_out(images_per_s: float, images_per_s_of_one: float, redundancy: float) -> str:
    """The formula with its numbers: ``ceil(640 / 80 x 1.5) = 12``."""
    needed = gpus_needed(images_per_s, images_per_s_of_one, redundancy)
    return f"ceil({amount(images_per_s)} / {amount(images_per_s_of_one)} x {redundancy:g}) = {needed}"


def bus_bytes_per_s(gpu: GpuTarget) -> float | None:
    """What the GPU's PCIe link carries in each direction; None where there is no such link, or none that is known.

    A MIG slice has its share of the board's link, as if all slices of its kind were in use.
    """
    gigatransfers = _GIGATRANSFERS_PER_S.get(gpu.pcie_gen or 0)
    if gigatransfers is None:
        return None
    board = gpu.slice_of or gpu.name
    whole = gigatransfers * 1e9 * 128 / 130 / 8 * _FEWER_LANES.get(board, _LANES)
    if gpu.slice_of is None:
        return whole
    profiles = {profile.name: profile for profile in known_gpus()[board].mig_profiles}
    return whole / profiles[gpu.mig_profile or ""].instances


def images_per_s_by_bus(gpu: GpuTarget, bytes_per_frame: float) -> float | None:
    """Frames a second that fill ``BUS_SHARE`` of the bus; None where there is none."""
    carried = bus_bytes_per_s(gpu)
    return None if carried is None else BUS_SHARE * carried / bytes_per_frame


def transfer_s(gpu: GpuTarget, bytes_per_frame: float, batch: int) -> float:
    """Seconds that a batch is on the bus at ``BUS_SHARE`` of its rate; 0 where there is none."""
    frames_per_s = images_per_s_by_bus(gpu, bytes_per_frame)
    return 0.0 if frames_per_s is None else batch / frames_per_s


def price_per_stream_month(price_per_hour: float, gpus: int, streams: int) -> float:
    """Price of a GPU and hour x GPUs x ``HOURS_A_MONTH`` / streams."""
    return price_per_hour * gpus * HOURS_A_MONTH / streams


def amount(number: float) -> str:
    """A number as a reader takes it in: whole ones, and those from 100 on, without decimals."""
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"
