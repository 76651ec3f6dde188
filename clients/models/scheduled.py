"""A detector whose model changes by the clock, between two frames and without losing one."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clients.detector import Detector
from clients.errors import ClientError, ContractError, ModelNotFoundError, ModelNotReadyError, OptionsError
from clients.letterbox import GREY
from clients.models.calls import ScheduledCalls
from clients.models.control import ControlModeError, ModelControl
from clients.models.parts import DetectorLike, ModelLoader
from clients.models.schedule import Schedule
from clients.options import DEFAULT_OPTIONS, ConnectionOptions
from clients.sending import Send
from clients.session import DEFAULT_TIMEOUT_S
from clients.wire.address import address_from

TICK_S = 0.5
"""The longest time between two looks at the clock, which may be set, and at what calls have met."""
PREPARE_S = 120.0
UNLOAD_AFTER_S = 10.0
CLOSE_S = 1.0
"""How long ``close`` waits for a model that is being loaded."""
WARM_REQUESTS = 2
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between attempts to make a model ready; the pause doubles from the first to the longest."""

NOT_ENCODED = tuple(each for each in Send if each is not Send.ENCODED)

_log = logging.getLogger(__name__)


class _Served:
    """A model that answers, and how many calls use it now."""

    def __init__(self, model: str, detector: DetectorLike) -> None:
        self.model = model
        self.detector = detector
        self.calls = 0
        self.retired_at: datetime | None = None


class ScheduledDetector(ScheduledCalls):
    """A detector that asks the model which its schedule names for the moment.

    ``connect`` makes the detector of a model, ``loader``, which it closes with itself, loads and unloads models on the
    same server: ``from_url`` makes both. A model is loaded and warmed ``prepare_s`` before its switch; a call that has
    begun ends with the model that it began with, and each result carries the class names of its own model.
    ``unload_after_s`` after the switch, when its last call has been answered, the old model is unloaded; None leaves it
    loaded, for a server that others use as well, and so does a server that is not in explicit control mode, whose
    models are all loaded already.

    A model that cannot be loaded leaves the old one in use: a warning is logged, ``problem`` says why, and it is tried
    again. A model that the server has lost, by a restart say, is loaded again; calls fail until it is.

    Making one loads the current model and raises the errors of ``clients.errors`` where that fails. It may be shared
    by several threads. Close it when no thread uses it any more; the model in use then stays loaded.
    """

    def __init__(
        self,
        schedule: Schedule,
        connect: Callable[[str], DetectorLike],
        loader: ModelLoader,
        *,
        prepare_s: float = PREPARE_S,
        unload_after_s: float | None = UNLOAD_AFTER_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Load the model of this moment, and begin to follow the clock."""
        if not prepare_s >= 0:
            raise ValueError(f"expected prepare_s in seconds from 0, got {prepare_s}")
        if unload_after_s is not None and not unload_after_s >= 0:
            raise ValueError(f"expected unload_after_s in seconds from 0 or None, got {unload_after_s}")
        self._schedule = schedule
        self._connect = connect
        self._loader = loader
        self._prepare = timedelta(seconds=prepare_s)
        self._unload_after = None if unload_after_s is None else timedelta(seconds=unload_after_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._is_explicit = True
        self._next: _Served | None = None
        self._retired: list[_Served] = []
        self._is_lost = False
        self._failures = 0
        self._failed_at: datetime | None = None
        self._problem: str | None = None
        self._current = self._ready(schedule.at(clock()))
        self._thread = threading.Thread(target=self._follow, name="schedule", daemon=True)
        self._thread.start()

    @classmethod
    def from_url(
        cls,
        url: str,
        schedule: Schedule,
        *,
        control_url: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        options: ConnectionOptions = DEFAULT_OPTIONS,
        prepare_s: float = PREPARE_S,
        unload_after_s: float | None = UNLOAD_AFTER_S,
        send: Send | str = Send.PIXELS,
    ) -> Self:
        """Detectors of one server; the arguments are those of Detector, and of this class.

        ``control_url`` is where models are loaded, by default ``url``. For an ``http://`` address it has to be given,
        the server's gRPC address at best: see ``clients.models.control``. Raises OptionsError without it.
        """
        if send == Send.ENCODED:
            raise OptionsError(
                f"expected send to be one of {', '.join(map(repr, map(str, NOT_ENCODED)))}, got {send!r}: it is "
                "detectors that are loaded and unloaded, and encoded images go to the ensembles beside them"
            )
        if control_url is None and not address_from(url).is_grpc:
            raise OptionsError(
                f"expected control_url, the gRPC address of the server at {url}: a model that is loaded over HTTP "
                "holds up the frames that are sent over HTTP"
            )
        loader = ModelControl(control_url or url, options=options)
        try:
            return cls(
                schedule,
                lambda model: Detector(url, model, timeout_s=timeout_s, options=options, send=send),
                loader,
                prepare_s=prepare_s,
                unload_after_s=unload_after_s,
            )
        except BaseException:
            loader.close()
            raise

    @property
    def model(self) -> str:
        """The name of the model in use."""
        return self._current.model

    @property
    def problem(self) -> str | None:
        """Why another model than the schedule's is in use, or the next one is not ready; None: all is well."""
        return self._problem

    def close(self) -> None:
        """Stop following the clock, unload what was replaced, and close the connections."""
        self._closing.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            # A model takes its time to load, and nobody waits for it any more.
            self._loader.close()
            self._thread.join()
        while self._retired:
            # What is still there counts as in use.
            self._drop(self._retired.pop(0))
        for served in filter(None, (self._next, self._current)):
            served.detector.close()
        self._next = None
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _used(self) -> DetectorLike:
        return self._current.detector

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[DetectorLike]:
        with self._lock:
            served = self._current
            served.calls += 1
        try:
            yield served.detector
        except (ModelNotReadyError, ModelNotFoundError, ContractError):
            # Unloaded or replaced by somebody else, or gone with a restart of the server. The next tick sees to it: a
            # model that goes on failing is not connected to again at every frame.
            with self._lock:
                self._is_lost = self._is_lost or served is self._current
            raise
        finally:
            with self._lock:
                served.calls -= 1

    def _follow(self) -> None:
        while not self._closing.wait(self._pause_s()):
            try:
                self._advance()
            except Exception:
                # Whatever it is, the cameras go on, and so does the clock.
                _log.exception("the schedule could not be followed; it goes on")

    def _pause_s(self) -> float:
        """Seconds until something is due, at most a tick."""
        switch = self._schedule.next_switch(now := self._clock())
        until_switch_s = (switch.at - now).total_seconds() if switch else TICK_S
        return max(0.0, min(TICK_S, until_switch_s))

    def _advance(self) -> None:
        """Do what is due."""
        now = self._clock()
        wanted, switch = self._schedule.at(now), self._schedule.next_switch(now)
        upcoming = switch.entry.model if switch and switch.at - now <= self._prepare else None
        if self._next is not None and self._next.model not in {wanted, upcoming}:
            # The clock was set.
            self._retire(self._next, now)
            self._next = None
        if self._current.model != wanted:
            self._attempt(lambda: self._switch_to(wanted, now), f"switch to model {wanted!r}", now)
        elif self._is_lost:
            self._attempt(lambda: self._switch_to(wanted, now), f"load model {wanted!r} again", now)
        elif upcoming is not None and self._next is None:
            self._attempt(lambda: self._prepare_next(upcoming), f"prepare model {upcoming!r}", now)
        self._drop_retired(now)

    def _attempt(self, action: Callable[[], None], what: str, now: datetime) -> None:
        """Do it, unless it failed a moment ago; a failure is logged, and keeps everything as it is."""
        if self._failed_at is not None:
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 60))
            # A clock that was set back must not stop the attempts.
            if timedelta(0) <= now - self._failed_at < timedelta(seconds=pause_s):
                return
        try:
            action()
        except ClientError as error:
            if self._closing.is_set():
                return
            self._failures += 1
            self._failed_at = now
            problem = f"cannot {what} ({error}): {self._current.model!r} stays in use, and it is tried again"
            if problem != self._problem:
                _log.warning("%s", problem)
            self._problem = problem
        else:
            self._failures, self._failed_at, self._problem = 0, None, None

    def _prepare_next(self, model: str) -> None:
        self._next = self._ready(model)
        _log.info("model %r is ready", model)

    def _switch_to(self, model: str, now: datetime) -> None:
        prepared = None
        if self._next is not None and self._next.model == model:
            prepared, self._next = self._next, None
        if prepared is not None and not _answers(prepared.detector):
            # The server has been restarted since.
            prepared.detector.close()
            prepared = None
        served = prepared or self._ready(model)
        with self._lock:
            old, self._current = self._current, served
            self._is_lost = False
        _log.info("model %r is in use, in place of %r", model, old.model)
        self._retire(old, now)

    def _ready(self, model: str) -> _Served:
        """Load a model, connect to it, and let it answer."""
        if self._is_explicit:
            try:
                self._loader.load(model)
            except ControlModeError:
                # Its models are all loaded, or the connection says that they are not.
                self._is_explicit = False
                _log.info("the server is not in explicit control mode: models are neither loaded nor unloaded")
        detector = self._connect(model)
        try:
            for _ in range(WARM_REQUESTS):
                detector.detect(_grey(detector))
        except BaseException:
            detector.close()
            raise
        return _Served(model, detector)

    def _retire(self, served: _Served, now: datetime) -> None:
        served.retired_at = now
        self._retired.append(served)

    def _drop_retired(self, now: datetime) -> None:
        """Close what is no longer used, and unload it when its time has come."""
        for served in list(self._retired):
            assert served.retired_at is not None
            linger = self._unload_after or timedelta(0)
            # A clock that was set back must not keep it for ever.
            is_due = not timedelta(0) <= now - served.retired_at < linger
            with self._lock:
                is_free = served.calls == 0
            if is_free and is_due:
                self._retired.remove(served)
                self._drop(served)

    def _drop(self, served: _Served) -> None:
        served.detector.close()
        in_use = {each.model for each in (self._current, self._next, *self._retired) if each not in {None, served}}
        if self._unload_after is None or not self._is_explicit or served.model in in_use:
            return
        try:
            self._loader.unload(served.model)
            _log.info("model %r is unloaded", served.model)
        except ClientError as error:
            _log.warning("model %r stays loaded: %s", served.model, error)


def _grey(detector: DetectorLike) -> NDArray[np.uint8]:
    return np.full((*detector.size, 3), GREY, np.uint8)


def _answers(detector: DetectorLike) -> bool:
    try:
        detector.detect(_grey(detector))
    except ClientError:
        return False
    return True
