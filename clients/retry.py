"""When a request is sent again: a pure decision, made of numbers and an error.

Only what the server surely did not take is sent again: the connection was refused, no connection could be made, the
server said that it starts or stops, or the model's queue had no room. Inference is idempotent, so running a request
twice would do no harm to its answer; but a request that was lost on the way may be what a busy server is working on,
and to send it again would double the load just when there is too much of it. So a request that may have been taken is
never sent again, with one exception: a kept-alive HTTP connection that turns out to be closed before any byte of an
answer came was closed while it lay idle, and the request goes over a new one at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clients.errors import ClientError


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often, and after which pauses, what the server did not take is sent again.

    The pause is drawn evenly from zero to a ceiling that doubles with each failure ("full jitter", AWS Architecture
    Blog, 2015): clients that failed together do not come back together. Raises ValueError for impossible numbers.
    """

    attempts: int = 4
    """The most times that one request is sent; 1 never sends it again."""
    first_pause_s: float = 0.05
    """The ceiling of the first pause."""
    longest_pause_s: float = 2.0
    """The ceiling that later pauses grow to."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"expected at least 1 attempt, got {self.attempts}")
        for name, value in (("first_pause_s", self.first_pause_s), ("longest_pause_s", self.longest_pause_s)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"expected {name} in seconds from 0, got {value}")

    def pause_s(self, failures: int, error: ClientError, remaining_s: float, chance: float) -> float | None:
        """Seconds to wait before the next attempt, after so many failures, the last with ``error``; None: give up.

        ``remaining_s`` is what is left of the caller's time, ``chance`` a random number from 0 to 1.
        """
        if not error.not_accepted or failures >= self.attempts:
            return None
        # 2.0**1024 is beyond a float; long before that the ceiling is the longest pause.
        ceiling_s = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 60))
        pause_s = chance * ceiling_s
        return pause_s if pause_s < remaining_s else None


DEFAULT_POLICY = RetryPolicy()
