"""What a detector does, without doing any of its I/O: the one logic behind Detector and AsyncDetector."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch, InputPool, batch_of_one, batches, keep_freed_memory
from clients.contract import Contract, contract_from_config
from clients.detections import Detections
from clients.errors import (
    ClientError,
    DeadlineExceededError,
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    QueueFullError,
    ServerUnavailableError,
    TlsError,
)
from clients.images import ImageSource, load_decoders
from clients.options import DEFAULT_OPTIONS, ConnectionOptions, check_seconds
from clients.pace import Pace
from clients.selection import EVERYTHING, Selection, class_numbers
from clients.wire.failures import no_answer
from clients.wire.steps import GrpcCall, HttpCall, Pause, Steps, Work
from clients.wire.transport import Dialect

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
"""For reading the contract, which a healthy server answers at once however long inference takes."""
DEFAULT_CONFIDENCE = 0.25
DEFAULT_TIMEOUT_S = 30.0
FIRST_QUEUE_PAUSE_S = 0.1
"""At most, before what a queue refused is sent again; more after each refusal."""
PACE_POLL_S = 0.01


class Session:
    """One model on one server: what to send, when to send it again, and how to read the answers.

    It has no connection and waits for nothing: its methods yield steps, which a transport performs.
    """

    def __init__(
        self,
        model: str,
        *,
        version: str | int = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        options: ConnectionOptions = DEFAULT_OPTIONS,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Check the arguments; ``clock`` tells seconds, ``chance`` numbers from 0 to 1."""
        version = str(version)
        if not model:
            raise ValueError("expected the name of a model, got an empty one")
        if version and not (version.isascii() and version.isdigit() and int(version) > 0):
            raise ValueError(f"expected a model's version as a whole number from 1, got {version!r}")
        check_seconds("timeout_s", timeout_s)
        self.model = model
        self.version = version
        self._timeout_s = timeout_s
        self._options = options
        self._clock = clock
        self._chance = chance
        self._contract: Contract | None = None
        self._pool: InputPool | None = None
        self._selection = EVERYTHING

    @property
    def contract(self) -> Contract:
        """What the server said of the model."""
        if self._contract is None:
            raise RuntimeError("the detector is not connected yet: await its connect(), or use it in 'async with'")
        return self._contract

    def open(self, dialect: Dialect) -> Steps[None]:
        """Read the model's contract; raises what its absence or its kind means."""
        # Here, so that the first picture takes no longer than those after it.
        yield Work(load_decoders)
        config: dict[str, Any] = yield from self._request(
            lambda timeout_s: dialect.model_config(self.model, self.version, timeout_s),
            dialect,
            min(self._timeout_s, CONNECT_TIMEOUT_S),
        )
        self._contract = contract_from_config(config, model=self.model, version=self.version)
        self._pool = InputPool(self._contract)
        keep_freed_memory(self._contract)

    def refreshed(self, dialect: Dialect) -> Steps[Self | None]:
        """The same for what the server says of the model now; None where that is what it said before.

        Raises what ``open`` does; this session then stays as it is.
        """
        fresh = copy.copy(self)
        yield from fresh.open(dialect)
        return None if fresh.contract == self.contract else fresh

    def closing(self) -> Steps[None]:
        """Take back what the server has of this session, while there is still a connection."""
        yield from ()

    def is_ready(self, dialect: Dialect) -> Steps[bool]:
        """Whether the server would take a request now; asked once, without another attempt."""
        timeout_s = min(self._timeout_s, CONNECT_TIMEOUT_S)
        try:
            ready: bool = yield from dialect.is_ready(self.model, self.version, timeout_s)
        except TlsError:
            raise
        except (
            ServerUnavailableError,
            DeadlineExceededError,
            ModelNotFoundError,
            ModelNotReadyError,
            InferenceError,
        ):
            return False
        return ready

    def detect(
        self, dialect: Dialect, image: ImageSource, confidence: float, priority: int, index: int | None = None
    ) -> Steps[Detections]:
        """One image, which an ImageError names by ``index`` where one is given."""
        self.check(confidence, priority)
        deadline = self._deadline()
        batch: Batch = yield Work(
            functools.partial(batch_of_one, image, self.contract, self._pool, priority=priority, index=index)
        )
        return (yield from self._infer(dialect, batch, confidence, deadline))[0]

    def detect_one_of_many(
        self, dialect: Dialect, image: ImageSource, confidence: float, *, priority: int, index: int, pace: Pace
    ) -> Steps[Detections]:
        """One image, sent when ``pace`` lets it, and again while the server's queue refuses it and there is time.

        What its queue refuses, for its length or after its time there, the server has not begun.
        """
        end = min(self._clock() + self._timeout_s, self._deadline())
        for failures in itertools.count(1):
            while (mark := pace.send()) is None:
                if self._clock() >= end:
                    raise no_answer(dialect.address, min(self._timeout_s, self._options.deadline_s or math.inf))
                yield Pause(PACE_POLL_S)
            answered = refused = False
            try:
                found = yield from self._until(end, self.detect(dialect, image, confidence, priority, index))
                answered = True
                return found
            except QueueFullError:
                refused = True
                pause_s = self._chance() * min(self._options.retry.longest_pause_s, FIRST_QUEUE_PAUSE_S * failures)
                if self._options.retry.attempts == 1 or self._clock() + pause_s >= end:
                    raise
            finally:
                pace.ended(mark, answered=answered, refused=refused)
            yield Pause(pause_s)
        raise AssertionError

    def detect_batch(
        self, dialect: Dialect, images: Iterable[ImageSource], confidence: float, priority: int
    ) -> Steps[list[Detections]]:
        """Several images, one request after the other."""
        self.check(confidence, priority)
        deadline = self._deadline()
        made = batches(images, self.contract, self._pool, priority=priority)
        results: list[Detections] = []
        while (batch := (yield Work(lambda: next(made, None)))) is not None:
            results += yield from self._infer(dialect, batch, confidence, deadline)
        return results

    def keeping(self, selection: Selection) -> Self:
        """The same session, whose answers hold only what is selected.

        Raises ValueError for a class that the model does not have.
        """
        if selection == EVERYTHING:
            return self
        class_numbers(selection.classes or (), self.contract.names)
        session = copy.copy(self)
        session._selection = selection
        return session

    def check(self, confidence: float, priority: int) -> None:
        """Raise ValueError for arguments that no request can have."""
        if not 0 <= confidence <= 1:
            raise ValueError(f"expected a confidence from 0 to 1, got {confidence}")
        if not (isinstance(priority, int) and 0 <= priority < 1 << 32):
            raise ValueError(f"expected a priority from 1, or 0 for the model's default, got {priority!r}")

    def in_flight(self, asked: int | None) -> int:
        """How many requests to have under way at a time."""
        return self.contract.saturating_requests if asked is None else asked

    def _deadline(self) -> float:
        """When a call that begins now has to end."""
        return math.inf if self._options.deadline_s is None else self._clock() + self._options.deadline_s

    def _infer(self, dialect: Dialect, batch: Batch, confidence: float, deadline: float) -> Steps[list[Detections]]:
        settled = False
        try:
            rows_BN6: NDArray[np.float32] = yield from self._request(
                lambda timeout_s: dialect.infer(batch, timeout_s), dialect, self._timeout_s, deadline
            )
            settled = True
        except ClientError as error:
            settled = error.not_accepted or isinstance(error, InferenceError)
            raise
        finally:
            # A request that nobody has answered may still be read.
            if settled and self._pool is not None:
                self._pool.give_back(batch.images_BHWC)
        found = batch.detections(rows_BN6, confidence)
        return found if self._selection is EVERYTHING else [self._selection.apply(each) for each in found]

    def _request(
        self, attempt: Callable[[float], Steps[T]], dialect: Dialect, timeout_s: float, deadline: float = math.inf
    ) -> Steps[T]:
        """One request, sent again by the policy, all within ``timeout_s`` and before ``deadline``."""
        end = min(self._clock() + timeout_s, deadline)
        # The call may have had most of its time before this request, to read an image say.
        allowed_s = timeout_s if end < deadline else self._options.deadline_s or timeout_s
        for failures in itertools.count(1):
            try:
                if self._clock() >= end:
                    raise no_answer(dialect.address, allowed_s)
                return (yield from self._until(end, attempt(end - self._clock())))
            except DeadlineExceededError as error:
                # However little of the time was left for the last attempt, all of it is over.
                raise no_answer(dialect.address, allowed_s) from error
            except ClientError as error:
                pause_s = self._options.retry.pause_s(failures, error, end - self._clock(), self._chance())
                if pause_s is None:
                    raise
            yield Pause(pause_s)
        raise AssertionError

    def _until(self, end: float, steps: Steps[T]) -> Steps[T]:
        """The same steps, none with more time than is left: questions about an error have limits of their own."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, GrpcCall | HttpCall):
                    step = replace(step, timeout_s=max(0.001, min(step.timeout_s, end - self._clock())))
                try:
                    result = yield step
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            steps.close()
