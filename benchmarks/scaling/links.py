"""What sending costs: the time of an all-reduce by the number of workers, bytes, bandwidth and latency.

Large tensors travel round a ring, first to add up, then to hand round (Patarasuk and Yuan, Bandwidth optimal all-reduce
algorithms for clusters of workstations, J. Parallel Distrib. Comput. 69 (2009) 117-124): each of n workers sends
(n - 1) / n of the bytes twice, in 2 (n - 1) steps,

    2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency.

For example 8 workers with 10.5 MB over 25 Gbit/s (3.125 GB/s) and 14 us: 2 * 7/8 * 3.36 ms + 14 * 14 us = 6.08 ms.

Small ones, such as the statistics of batch norm, go up a tree and down again: 2 ceil(log2 n) latencies, and no time for
their bytes (Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, Int. J. High
Perform. Comput. Appl. 19 (2005) 49-66). With two workers both take 2 latencies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from builder.errors import SpecError

_BITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """The connection from each worker to the next, the same between all."""

    name: str
    gbit_per_s: float
    """In one direction."""
    latency_us: float
    """Of a hop, what the library adds to it included."""

    @property
    def bytes_per_s(self) -> float:
        """In one direction."""
        return self.gbit_per_s * 1e9 / _BITS

    def __str__(self) -> str:
        """Name and figures."""
        return f"{self.name} ({self.gbit_per_s:.4g} Gbit/s, {self.latency_us:.3g} us a hop)"


PRESETS: Mapping[str, Link] = {
    # Line rates of the data sheets: NVLink 3 of an A100 has 300 GB/s in each direction, PCIe 4.0 x16 has
    # 16 * 16 GT/s * 128/130. Latencies are those that NCCL 2.19 reckons with for a hop of its ring (graph/tuning.cc).
    link.name.lower(): link
    for link in (
        Link(name="nvlink", gbit_per_s=2400.0, latency_us=3.4),
        Link(name="pcie4", gbit_per_s=252.0, latency_us=5.7),
        Link(name="100GbE", gbit_per_s=100.0, latency_us=14.0),
        Link(name="25GbE", gbit_per_s=25.0, latency_us=14.0),
    )
}


def find_link(name: str) -> Link:
    """A link that is known by name.

    Raises:
        SpecError: there is none of that name.
    """
    link = PRESETS.get(name.lower())
    if link is None:
        known = ", ".join(each.name for each in PRESETS.values())
        raise SpecError(f"--link {name}: expected one of {known}; another one is --link-gbit G --link-latency-us L.")
    return link


def ring_all_reduce_s(link: Link, workers: int, size_bytes: float) -> float:
    """Seconds until every worker has the sum of ``size_bytes`` of each; see the module for formula and source."""
    hops = 2 * (workers - 1)
    return hops / workers * size_bytes / link.bytes_per_s + hops * link.latency_us * 1e-6


def small_all_reduce_s(link: Link, workers: int) -> float:
    """Seconds of an all-reduce of a few numbers; see the module for formula and source."""
    return 2 * math.ceil(math.log2(workers)) * link.latency_us * 1e-6


def measured_link(name: str, workers: int, *, small_s: float, large_s: float, large_bytes: int) -> Link:
    """The link by which the ring's formula gives the two times that were measured with ``workers``, two or more."""
    hops = 2 * (workers - 1)
    # Noise may have the large one be as quick as the small one: no bandwidth is infinite.
    sending_s = max(large_s - small_s, 1e-9)
    bandwidth = hops / workers * large_bytes / sending_s
    return Link(name=name, gbit_per_s=bandwidth * _BITS / 1e9, latency_us=small_s / hops * 1e6)
