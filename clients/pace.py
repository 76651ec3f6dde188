"""How many requests at a time a server bears: a pure decision, made of what became of those before."""

from __future__ import annotations

ANSWERS_PER_STEP = 16
"""After so many answers for each request under way, one more is tried."""


class Pace:
    """Half as many requests after the server's queue refused one, and slowly more again while it answers.

    A queue refuses by what the server can do just now, which nobody told the client: its length, or how long a
    request may lie in it. One thread may look at ``limit`` while others report; the numbers are hints.
    """

    def __init__(self, most: int) -> None:
        """Begin with ``most``, which is never exceeded."""
        self.limit = most
        """Requests to have under way at a time, at least 1."""
        self.most = most
        self._cuts = 0
        self._answers = 0

    def sends(self) -> int:
        """A mark to report a request's end with."""
        return self._cuts

    def answered(self) -> None:
        """One was answered."""
        self._answers += 1
        if self._answers >= ANSWERS_PER_STEP * self.limit:
            self.limit, self._answers = min(self.most, self.limit + 1), 0

    def refused(self, mark: int) -> None:
        """One had no place; of all that were sent before the limit was cut, only the first cuts it."""
        if mark == self._cuts:
            self.limit, self._cuts, self._answers = max(1, self.limit // 2), self._cuts + 1, 0
