"""Where the command and the workers of a training on Ray leave word for each other: an actor beside the command."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from builder.errors import BuilderError
from trainer.errors import TrainingError


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What has been said since it was asked for last."""

    lines: tuple[str, ...] = ()
    shown: tuple[str, int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the training has ended."""

    number: int = 0
    """Of the signal that it was left by."""
    error: BuilderError | None = None
    """Of the first worker that has one."""


class Desk:
    """The actor; one call at a time."""

    def __init__(self) -> None:
        """Nothing is said yet."""
        self._lines: list[str] = []
        self._shown: tuple[str, int, int] | None = None
        self._begun: Counter[int] = Counter()
        self._group = ""
        self._number, self._left = 0, 0
        self._errors: dict[int, BuilderError] = {}

    def say(self, line: str) -> None:
        """A line of worker 0."""
        self._lines.append(line)

    def show(self, what: str, done: int, total: int) -> None:
        """The progress of worker 0."""
        self._shown = (what, done, total)

    def take(self) -> News:
        """What is new."""
        news = News(lines=tuple(self._lines), shown=self._shown)
        self._lines, self._shown = [], None
        return news

    def begin(self, rank: int, group: str) -> int | None:
        """How often this worker of a group has begun before; None where the training is over."""
        # A group of which one has begun begins whole, and leaves together: it would wait for who is missing.
        if self._errors or (self._number and group != self._group):
            self._left = self._left or self._number
            return None
        self._group = group
        self._begun[rank] += 1
        return self._begun[rank] - 1

    def stop(self, number: int) -> bool:
        """A signal has come; whether any worker has begun, and will leave by itself."""
        self._number = number
        return bool(self._begun)

    def number(self) -> int:
        """The signal's that has come; 0: none."""
        return self._number

    def left(self, number: int) -> None:
        """A worker has saved and left."""
        self._left = number

    def failed(self, rank: int, error: BuilderError) -> None:
        """A worker's error: starting it anew would give the same."""
        self._errors[rank] = error

    def outcome(self) -> Outcome:
        """How it has ended."""
        return Outcome(number=self._left, error=self._errors[min(self._errors)] if self._errors else None)


class Remote:
    """The desk from another process; every call waits for its answer, so that nothing said is lost."""

    def __init__(self, actor: Any) -> None:
        """Take the actor's handle."""
        self.actor = actor

    @classmethod
    def started(cls) -> Remote:
        """A desk on this node: one that is lost is lost with the command."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote())

    def say(self, line: str) -> None:
        """See Desk."""
        self._ask("say", line)

    def show(self, what: str, done: int, total: int) -> None:
        """See Desk."""
        self._ask("show", what, done, total)

    def take(self) -> News:
        """See Desk."""
        news: News = self._ask("take")
        return news

    def begin(self, rank: int, group: str) -> int | None:
        """See Desk."""
        restarts: int | None = self._ask("begin", rank, group)
        return restarts

    def stop(self, number: int) -> bool:
        """See Desk."""
        begun: bool = self._ask("stop", number)
        return begun

    def number(self) -> int:
        """See Desk."""
        number: int = self._ask("number")
        return number

    def left(self, number: int) -> None:
        """See Desk."""
        self._ask("left", number)

    def failed(self, rank: int, error: BuilderError) -> None:
        """See Desk."""
        self._ask("failed", rank, error)

    def outcome(self) -> Outcome:
        """See Desk."""
        outcome: Outcome = self._ask("outcome")
        return outcome

    def _ask(self, name: str, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self.actor, name).remote(*arguments))
        except ray.exceptions.RayError as e:
            raise TrainingError("the Ray cluster is gone; --resume goes on from the newest checkpoint.") from e
