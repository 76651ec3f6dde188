"""How many requests at a time a server bears: a decision, made of what became of those before."""

from __future__ import annotations

import threading

ANSWERS_PER_STEP = 2
"""After so many answers for each request under way, one more is tried."""


class Pace:
    """Half as many requests after the server's queue refused one, and slowly more again while it answers.

    A queue refuses by what the server can do just now, which nobody told the client: its length, or how long a
    request may lie in it. Safe between threads.
    """

    def __init__(self, most: int) -> None:
        """Begin with ``most``, which is never exceeded."""
        self.most = most
        self.limit = most
        """Requests to have under way at a time, at least 1."""
        self._lock = threading.Lock()
        self._sent = 0
        self._cuts = 0
        self._answers = 0

    def send(self) -> int | None:
        """A mark to report the request's end with; None where it has to wait for others to end."""
        with self._lock:
            if self._sent >= self.limit:
                return None
            self._sent += 1
            return self._cuts

    def ended(self, mark: int, *, answered: bool, refused: bool) -> None:
        """One ended; of all that were sent before the limit was cut, only the first that was refused cuts it."""
        with self._lock:
            self._sent -= 1
            if refused and mark == self._cuts:
                self.limit, self._cuts, self._answers = max(1, self.limit // 2), self._cuts + 1, 0
            elif answered:
                self._answers += 1
                if self._answers >= ANSWERS_PER_STEP * self.limit:
                    self.limit, self._answers = min(self.most, self.limit + 1), 0
