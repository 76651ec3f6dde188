"""Runs the streams: a reader per source, a bounded number of requests, results in the order of each source."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from clients.detections import Detections
from clients.errors import ClientError, ImageError, ModelNotReadyError, ServerUnavailableError
from clients.images import Pixels
from clients.video.accounts import AccountView
from clients.video.frames import Frame, PictureFile
from clients.video.queue import FrameQueue, Ticket
from clients.video.reader import OPEN_TIMEOUT_S, Reader, ReadOptions, SourceStatus
from clients.video.sampling import Backoff
from clients.video.sources import Source

SAY_EVERY_S = 10.0
"""A trouble that comes and goes is said this often at most."""


class FrameDetector(Protocol):
    """What the streams need of a detector; it is shared by threads."""

    def detect(self, image: Pixels, confidence: float, *, priority: int) -> Detections:
        """Find objects in one image; raises ClientError. A ``priority`` of 0 leaves it to the server."""


class Tracker(Protocol):
    """Follows objects from frame to frame of one source."""

    def update(self, detections: Detections, time_s: float) -> tuple[int | None, ...]:
        """The number of each detection's object; None for one that is not followed (yet)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of one frame that was taken to be sent."""

    source: Source
    frame: Frame
    latency_s: float
    """From its capture to its answer, or its error."""
    pixels: Pixels | None
    """None where the frame could not be read."""
    detections: Detections | None
    """None where it failed."""
    error: ClientError | None
    track_ids: tuple[int | None, ...] = ()
    """One for each detection; empty without tracking."""


class Output(Protocol):
    """Takes results: those of one source in order and one at a time, those of different sources side by side."""

    def write(self, result: Result) -> None:
        """Take one; raises ClientError or OSError where it cannot be written, which ends the run."""

    def close(self) -> None:
        """Finish what was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How streams are run."""

    reading: ReadOptions
    in_flight: int
    """Requests at once, of all sources together."""
    confidence: float
    tracker: Callable[[], Tracker] | None = None
    """Makes a source's tracker; None follows nothing."""


class StreamRunner:
    """All streams of one run: ``start``, then ``wait`` until they end, or ``stop`` them."""

    def __init__(
        self,
        sources: Sequence[Source],
        detector: FrameDetector,
        options: RunOptions,
        outputs: Sequence[Output] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prepare; ``say`` takes lines for the user, from any thread."""
        self.sources = tuple(sources)
        self._detector, self._options, self._outputs, self._say = detector, options, outputs, say
        self._queue: FrameQueue[Frame] = FrameQueue([source.priority for source in sources], options.in_flight)
        self._readers = [
            Reader(index, source, self._queue, options.reading, say=say, crashed=self._crashed)
            for index, source in enumerate(self.sources)
        ]
        self._lines = [
            _InOrder(self._queue, options.tracker() if options.tracker else None, self._write) for _ in sources
        ]
        self._workers = [
            threading.Thread(target=self._work, name=f"request {number}", daemon=True)
            for number in range(options.in_flight)
        ]
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._trouble: dict[str, tuple[type[ClientError], bool]] = {}
        """By whom, the kind of error that frames end in now, and whether the user has been told."""
        self._said_s: dict[tuple[str, type[ClientError]], float] = {}
        self._started_s = self._ended_s = time.monotonic()
        self._fatal: BaseException | None = None

    def start(self) -> None:
        """Begin to read and to send."""
        self._started_s = time.monotonic()
        for thread in (*self._readers, *self._workers):
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until every source has ended and every result is written; whether that is so."""
        deadline_s = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.join(max(0.0, deadline_s - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)

    def stop(self) -> None:
        """Read no more; what waits is dropped, what is in flight is still answered: ``wait`` for it."""
        self._stopping.set()
        for reader in self._readers:
            reader.stop()
        self._queue.stop()

    def close(self) -> None:
        """After ``wait``: finish the outputs. Raises what ended the run early, if something did."""
        for output in self._outputs:
            try:
                output.close()
            except (ClientError, OSError) as error:
                self._crashed(error)
        for reader in self._readers:
            # A camera that sends nothing keeps its reader until the time allowed is over; it has nothing to lose, and
            # whoever does not wait for it loses nothing.
            reader.join(OPEN_TIMEOUT_S)
        for view in self.views():
            assert view.pending == 0, f"{view.pending} frames of {view.captured} are unaccounted for"
        if self._fatal is not None:
            raise self._fatal

    def views(self) -> list[AccountView]:
        """What became of the frames so far, by source."""
        return self._queue.views()

    def statuses(self) -> list[SourceStatus]:
        """What each source is doing."""
        return [reader.status for reader in self._readers]

    @property
    def seconds(self) -> float:
        """From the start to the end of the last request, its result written."""
        return self._ended_s - self._started_s

    def _work(self) -> None:
        """One request at a time, until no frames come any more."""
        while (ticket := self._queue.take()) is not None:
            result = None
            try:
                result = self._answer(ticket)
            except BaseException as error:
                self._queue.failed(ticket)
                self._crashed(error)
            self._lines[ticket.source].done(ticket, result)
        # An output that takes its time, as a pipe that nobody reads, is part of the run.
        self._ended_s = time.monotonic()

    def _answer(self, ticket: Ticket[Frame]) -> Result:
        source, frame = self.sources[ticket.source], ticket.frame
        pixels = detections = failure = None
        try:
            pixels = frame.picture.pixels()
            detections = self._detect(pixels, source, frame)
        except ClientError as error:
            failure = error
            if isinstance(error, ImageError) and isinstance(frame.picture, PictureFile):
                self._readers[ticket.source].cannot_read(str(error))
        latency_s = time.monotonic() - frame.captured_s
        result = Result(
            source=source, frame=frame, latency_s=latency_s, pixels=pixels, detections=detections, error=failure
        )
        # A camera's first answer after a fault of the server says that it is over for all.
        self._note(source.name if isinstance(failure, ImageError) else "server", failure)
        if failure is None:
            self._queue.answered(ticket, latency_s)
        else:
            self._queue.failed(ticket)
        return result

    def _detect(self, pixels: Pixels, source: Source, frame: Frame) -> Detections:
        """The answer; with a frame that may not be dropped, a server that is gone is waited for."""
        backoff = Backoff()
        while True:
            try:
                return self._detector.detect(pixels, self._options.confidence, priority=source.priority)
            except (ServerUnavailableError, ModelNotReadyError) as error:
                if frame.may_be_dropped or self._stopping.is_set():
                    raise
                self._note("server", error)
                self._stopping.wait(backoff.next_delay_s())

    def _note(self, who: str, error: ClientError | None) -> None:
        """Say a trouble once, not for each frame, and when it is over; one that comes and goes, now and then."""
        now_s = time.monotonic()
        with self._lock:
            before = self._trouble.pop(who, None)
            if error is None:
                line = "answers again" if before is not None and before[1] else ""
            else:
                kind = type(error)
                is_told = before is not None and before[0] is kind and before[1]
                is_said = not is_told and now_s - self._said_s.get((who, kind), -SAY_EVERY_S) >= SAY_EVERY_S
                if is_said:
                    self._said_s[who, kind] = now_s
                self._trouble[who] = (kind, is_told or is_said)
                line = str(error) if is_said else ""
        if line:
            self._say(f"{who}: {line}")

    def _write(self, result: Result) -> None:
        if self._fatal is not None:
            return
        try:
            for output in self._outputs:
                output.write(result)
        except BaseException as error:
            self._crashed(error)

    def _crashed(self, error: BaseException) -> None:
        """Keep the first error that ends the run, and end it."""
        with self._lock:
            if self._fatal is None:
                self._fatal = error
        self.stop()


class _InOrder:
    """Hands on the results of one source in the order in which its frames were taken."""

    def __init__(self, queue: FrameQueue[Frame], tracker: Tracker | None, write: Callable[[Result], None]) -> None:
        self._queue, self._tracker, self._write = queue, tracker, write
        self._lock = threading.Lock()
        self._next = 0
        # At most the frames that the queue lets be taken of one source.
        self._held: dict[int, tuple[Ticket[Frame], Result | None]] = {}

    def done(self, ticket: Ticket[Frame], result: Result | None) -> None:
        """Take a result; without one there is nothing to write, but others may be due."""
        with self._lock:
            self._held[ticket.sequence] = (ticket, result)
            while (due := self._held.pop(self._next, None)) is not None:
                self._next += 1
                if due[1] is not None:
                    self._write(self._tracked(due[1]))
                self._queue.release(due[0])

    def _tracked(self, result: Result) -> Result:
        if self._tracker is None or result.detections is None:
            return result
        return replace(result, track_ids=self._tracker.update(result.detections, result.frame.time_s))
