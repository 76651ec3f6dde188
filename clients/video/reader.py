"""Reads one source in a thread of its own, by PyAV, and puts its frames into the queue."""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from clients.errors import one_line
from clients.images import MAX_PIXELS
from clients.video.frames import DecodedFrame, Frame, Picture, PictureFile
from clients.video.queue import FrameQueue
from clients.video.sampling import Backoff, Lag, Sampler
from clients.video.sources import PICTURES, Source, SourceKind

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 5.0
"""A camera that sends nothing for so long is lost."""
DEFAULT_FPS = 25.0
"""Of a video that does not tell."""
# Their demuxers number the frames as if they came at 25 a second, however they come.
_WITHOUT_CLOCK = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "image2pipe", "jpeg_pipe"})


class SourceState(enum.StrEnum):
    """What a source is doing."""

    OPENING = "opening"
    PLAYING = "playing"
    LOST = "lost"
    ENDED = "ended"


@dataclass(slots=True)
class SourceStatus:
    """What the reader of a source last said of it."""

    state: SourceState = SourceState.OPENING
    reason: str = ""
    """Why it is lost."""
    connections: int = 0
    """How often a camera was connected to, or a file opened."""
    broken: list[str] = field(default_factory=list)
    """Files that could not be read to their end, each with the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How sources are read."""

    fps: float | None = None
    """Frames taken per second of video; None takes all."""
    drops_nothing: bool = False
    """Videos in files are read as fast as they are answered, not in real time."""
    loops: bool = False
    """Files are played again and again."""


class Reader(threading.Thread):
    """One source, from its first frame to its end or to ``stop``; every frame is put into the queue."""

    def __init__(
        self,
        index: int,
        source: Source,
        queue: FrameQueue[Frame],
        options: ReadOptions,
        *,
        say: Callable[[str], None],
        crashed: Callable[[BaseException], None],
    ) -> None:
        """``say`` takes a line for the user, ``crashed`` what should never happen."""
        super().__init__(name=f"read {source.name}", daemon=True)
        self.status = SourceStatus()
        self._index, self._source, self._queue, self._options = index, source, queue, options
        self._say, self._crashed = say, crashed
        self._stopping = threading.Event()
        self._started_s = time.monotonic()
        self._number = 0

    def stop(self) -> None:
        """End soon: after the frame that is being read, or when a camera that sends nothing times out."""
        self._stopping.set()

    def run(self) -> None:
        """Read until the end."""
        try:
            if self._source.kind is SourceKind.CAMERA:
                self._watch()
            else:
                self._play()
        except BaseException as error:
            self._crashed(error)
        finally:
            self.status.state = SourceState.ENDED
            self._queue.end(self._index)

    def _watch(self) -> None:
        """A camera: connect, read, and connect again."""
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                for _ in self._camera_frames():
                    backoff.reset()
                reason = "it ended the stream"
            except OSError as error:
                reason = _reason(error)
            if self._stopping.is_set():
                return
            if self.status.state is not SourceState.LOST or reason != self.status.reason:
                self._say(f"{self._source.name}: lost ({reason}); trying again until it is back")
            self.status.state, self.status.reason = SourceState.LOST, reason
            self._stopping.wait(backoff.next_delay_s())

    def _camera_frames(self) -> Iterator[None]:
        """Read one connection to its end; yields after every frame."""
        is_rtsp = urlsplit(self._source.text).scheme.startswith("rtsp")
        # Over UDP a lost packet is a grey picture.
        options = {"fflags": "nobuffer"} | ({"rtsp_transport": "tcp"} if is_rtsp else {})
        with _opened(self._source.text, options, (OPEN_TIMEOUT_S, READ_TIMEOUT_S)) as container:
            stream = _video_stream(container, threads=1)
            has_clock = container.format.name not in _WITHOUT_CLOCK
            sampler, lag = Sampler(self._options.fps), Lag()
            for frame in self._decoded(container, stream):
                now_s = time.monotonic()
                if self.status.state is not SourceState.PLAYING:
                    self._connected()
                time_s = frame.time if has_clock and frame.time is not None else now_s
                lag.arrived(time_s, now_s)
                stream.codec_context.skip_frame = "NONKEY" if lag.is_catching_up else "DEFAULT"
                if sampler.takes(time_s):
                    self._offer(DecodedFrame(frame), now_s - self._started_s)
                self._number += 1
                yield

    def _connected(self) -> None:
        if self.status.state is SourceState.LOST:
            self._say(f"{self._source.name}: back")
        self.status.connections += 1
        self.status.state, self.status.reason = SourceState.PLAYING, ""

    def cannot_read(self, reason: str) -> bool:
        """Keep that a file cannot be read whole, a picture's reader being whoever sends it; whether that is new."""
        if reason in self.status.broken:
            return False
        self.status.broken.append(reason)
        return True

    def _play(self) -> None:
        """Files: one after the other."""
        offset_s = 0.0
        while True:
            before = self._number
            for path in self._source.files:
                if self._stopping.is_set():
                    return
                self.status.connections += 1
                if path.suffix.lower() not in PICTURES:
                    offset_s = self._play_video(path, offset_s)
                else:
                    self.status.state = SourceState.PLAYING
                    self._put(PictureFile(path), offset_s, path)
                    self._number += 1
                    offset_s += 1 / (self._options.fps or 1)
            # A source that gives nothing would be opened for ever.
            if not self._options.loops or self._number == before:
                return

    def _play_video(self, path: Path, offset_s: float) -> float:
        """One video, its first frame at ``offset_s`` of the source's time; the time at which the next file begins."""
        sampler, started_s, first_s, last_s = Sampler(self._options.fps), time.monotonic(), None, 0.0
        duration_s = 1 / DEFAULT_FPS
        try:
            with _opened(str(path), {"protocol_whitelist": "file"}, None) as container:
                stream = _video_stream(container, threads=0 if self._options.drops_nothing else 1)
                rate = stream.average_rate or stream.guessed_rate
                duration_s = 1 / float(rate) if rate else duration_s
                for frame in self._decoded(container, stream):
                    self.status.state = SourceState.PLAYING
                    time_s = frame.time if frame.time is not None else last_s + duration_s
                    first_s = time_s if first_s is None else first_s
                    last_s = max(last_s, time_s - first_s)
                    if not self._options.drops_nothing:
                        self._stopping.wait(max(0.0, started_s + last_s - time.monotonic()))
                    if self._stopping.is_set():
                        return offset_s
                    if sampler.takes(time_s):
                        put = self._put if self._options.drops_nothing else self._offer
                        put(DecodedFrame(frame), offset_s + last_s, path)
                    self._number += 1
        except OSError as error:
            reason = f"{path}: cannot be read to its end ({_reason(error)})"
            if self.cannot_read(reason):
                self._say(f"{self._source.name}: {reason}")
        return offset_s + last_s + duration_s

    def _decoded(self, container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        """The frames of a stream; a packet that cannot be decoded is left out, as players do."""
        import av

        last_frame_s, undecodable = time.monotonic(), 0
        for packet in container.demux(stream):
            if self._stopping.is_set():
                return
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                undecodable += 1
                if time.monotonic() - last_frame_s > READ_TIMEOUT_S and self._source.kind is SourceKind.CAMERA:
                    raise OSError(f"no frame for {READ_TIMEOUT_S:g} s, {one_line(error.strerror)}") from error
                continue
            for frame in frames:
                last_frame_s = time.monotonic()
                yield frame
        if undecodable and self._source.kind is SourceKind.FILES:
            raise OSError(f"{undecodable} damaged packets left out")

    def _offer(self, picture: Picture, time_s: float, file: Path | None = None) -> None:
        self._queue.offer(self._index, self._frame(picture, time_s, file, may_be_dropped=True))

    def _put(self, picture: Picture, time_s: float, file: Path | None) -> None:
        self._queue.put(self._index, self._frame(picture, time_s, file, may_be_dropped=False))

    def _frame(self, picture: Picture, time_s: float, file: Path | None, *, may_be_dropped: bool) -> Frame:
        return Frame(
            number=self._number,
            time_s=time_s,
            captured_s=time.monotonic(),
            captured_at=time.time(),
            picture=picture,
            may_be_dropped=may_be_dropped,
            file=file,
        )


@contextlib.contextmanager
def _opened(place: str, options: dict[str, str], timeout: tuple[float, float] | None) -> Iterator[InputContainer]:
    """An open container; PyAV's errors come as OSError, which most of them are."""
    import av

    began_s, is_open = time.monotonic(), False
    try:
        with av.open(place, options=options | {"max_pixels": str(MAX_PIXELS)}, timeout=timeout) as container:
            is_open = True
            yield container
    except av.FFmpegError as error:
        if timeout and not is_open and time.monotonic() - began_s >= timeout[0]:
            # RTSP's own word for it is "Invalid data found".
            raise OSError(f"no answer within {timeout[0]:g} s") from error
        if timeout and isinstance(error, av.error.ExitError):
            raise OSError(f"nothing came for {timeout[1]:g} s") from error
        if isinstance(error, OSError):
            raise
        raise OSError(error.errno, error.strerror) from error


def _video_stream(container: InputContainer, threads: int) -> av.VideoStream:
    """The first video stream; 0 threads are as many as there are cores."""
    if not container.streams.video:
        raise OSError("it has no video, expected a video stream")
    stream = container.streams.video[0]
    # In real time there are many sources, and threads that decode several frames at once hold frames back.
    stream.codec_context.thread_count = threads
    return stream


def _reason(error: OSError) -> str:
    """What happened, without the address: it may hold a password."""
    return one_line(error.strerror or (error.args[0] if error.args else type(error).__name__))
