"""What was timed, and the figures that are reported: seconds of a start, milliseconds of a request."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.coldstart.variants import Warmup
from benchmarks.figures import Spread

TENTH = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """Latencies in milliseconds, in the order in which they were sent, one at a time."""

    latencies_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse too few for a first, a second, a tenth and a steady one."""
        if len(self.latencies_ms) < 2 * TENTH:
            raise ValueError(f"expected {2 * TENTH} requests or more, got {len(self.latencies_ms)}")

    @property
    def steady_ms(self) -> float:
        """The median of the second half."""
        return median(self.latencies_ms[len(self.latencies_ms) // 2 :])

    def nth_ms(self, number: int) -> float:
        """The first is 1."""
        return self.latencies_ms[number - 1]

    def ratio(self, number: int) -> float:
        """Of that request to the steady median."""
        return self.nth_ms(number) / self.steady_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """One start of tritonserver with one model."""

    model: str
    warmup: Warmup
    ready_s: float
    """From the process's start until the model was READY."""
    up_s: float | None
    load_s: float | None
    requests: Requests
    new_connection_ms: float
    """The first request of a new connection to the server when it was warm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Switch:
    """One model loaded in a running server in another's place."""

    to: str
    load_s: float
    """Until the new one was READY; the old one answered meanwhile."""
    unload_s: float
    """Until the old one held no memory any more."""
    requests: Requests


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternation:
    """Two loaded models, each asked alone and then in alternation."""

    alone_ms: dict[str, float]
    """The steady median of each model."""
    alternating_ms: dict[str, float]
    """The median of each model where every request goes to the other one than the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Idling:
    """A warm server that nobody asked for a while."""

    model: str
    idle_s: float
    keepwarm_s: float | None
    """How often it was warmed meanwhile; None: never."""
    before_ms: float
    """The steady median before."""
    requests: Requests
    """Those after."""


def spread_of(starts: list[Requests], number: int) -> Spread:
    """Milliseconds of that request over the turns."""
    return Spread.of(each.nth_ms(number) for each in starts)


def to_json(value: Start | Switch | Alternation | Idling) -> dict[str, Any]:
    """Plain values, every latency."""
    plain = asdict(value)
    if isinstance(value, Alternation):
        return plain
    plain["latencies_ms"] = plain.pop("requests")["latencies_ms"]
    plain["steady_ms"] = value.requests.steady_ms
    return plain
