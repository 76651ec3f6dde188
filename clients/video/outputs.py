"""Where results go: JSON lines, and annotated videos and pictures."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clients.draw import draw
from clients.errors import ClientError, one_line
from clients.saving import PictureFolder
from clients.video.frames import PictureFile
from clients.video.runner import Result
from clients.video.sources import Source

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer

TICKS_PER_S = 90_000
"""The clock of the videos that are written; frames come when they come, not at a rate."""


def record(result: Result) -> dict[str, Any]:
    """A result as a dictionary, ready for JSON."""
    frame, pixels = result.frame, result.pixels
    captured_at = datetime.datetime.fromtimestamp(frame.captured_at, datetime.UTC)
    about: dict[str, Any] = {"source": result.source.name}
    if frame.file is not None:
        about["file"] = str(frame.file)
    about |= {
        "frame": frame.number,
        "time_s": round(frame.time_s, 6),
        "captured_at": captured_at.isoformat(timespec="milliseconds"),
        "latency_ms": round(1000 * result.latency_s, 3),
    }
    if pixels is not None:
        about |= {"width": pixels.width, "height": pixels.height}
    if result.detections is None:
        return about | {"error": str(result.error)}
    detections = result.detections.to_list()
    for detection, track_id in zip(detections, result.track_ids, strict=False):
        detection["track_id"] = track_id
    return about | {"detections": detections}


class JsonLines:
    """One JSON object per result and line, behind what a file holds already, or on standard output."""

    def __init__(self, target: str) -> None:
        """``target`` is a path, or "-"; raises ClientError where the file cannot be opened."""
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        if target != "-":
            try:
                # A supervisor that starts the stream again loses no line, and of two streams on one file no line is
                # torn: each is one write.
                self._file = Path(target).open("ab", buffering=0)  # noqa: SIM115 -- close() closes it
            except OSError as error:
                raise ClientError(f"cannot write {target}: {error.strerror}; name another file (--json)") from error

    def write(self, result: Result) -> None:
        """Write a line, at once: the reader may be waiting for it."""
        line = json.dumps(record(result))
        with self._lock:
            if self._file:
                self._file.write(f"{line}\n".encode())
            else:
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


class AnnotatedVideos:
    """An MP4 per source with boxes drawn in; pictures of a source of files become pictures.

    A file has its source's name, with "-2", "-3" ... where that is taken: by another source, or because the frames'
    size has changed. It is written beside its name and takes it when it is whole; files of an earlier run are replaced,
    a source never.
    """

    def __init__(self, folder: Path, sources: Sequence[Source]) -> None:
        """Make the folder; raises ClientError where that is impossible."""
        files = [file for source in sources for file in source.files]
        self._pictures = PictureFolder(folder, files)
        self._folder = folder
        self._sources = {file.resolve() for file in files}
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self._videos: dict[str, _Video] = {}

    def write(self, result: Result) -> None:
        """Draw and encode one frame."""
        if result.pixels is None or result.detections is None:
            return
        picture_BGR = draw(result.pixels, result.detections)
        _draw_track_ids(picture_BGR, result)
        if isinstance(result.frame.picture, PictureFile):
            with self._lock:
                self._pictures.save(result.frame.picture.path, picture_BGR)
            return
        name = result.source.name
        video = self._videos.get(name)
        if video is not None and video.size_hw != picture_BGR.shape[:2]:
            self._videos.pop(name).close()
            video = None
        if video is None:
            video = self._videos[name] = _Video(self._target(result.source), picture_BGR.shape[:2])
        video.write(picture_BGR, result.frame.time_s)

    def close(self) -> None:
        """Finish all videos."""
        with contextlib.ExitStack() as stack:
            for video in self._videos.values():
                stack.callback(video.close)

    def _target(self, source: Source) -> Path:
        stem = Path(source.file_stem).stem if source.files else source.file_stem
        with self._lock:
            target, number = self._folder / f"{stem}.mp4", 1
            while target.name.casefold() in self._taken or target.resolve() in self._sources:
                number += 1
                target = self._folder / f"{stem}-{number}.mp4"
            self._taken.add(target.name.casefold())
        return target


class _Video:
    """One MP4 file: H.264, in fragments, so that what was written can be played if the process is killed."""

    def __init__(self, path: Path, size_hw: tuple[int, ...]) -> None:
        import av

        self.size_hw = size_hw
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._first_s: float | None = None
        self._last_tick = -1
        # H.264 in its common form has half as many colour samples as pixels: sides are even.
        self._height, self._width = (side + side % 2 for side in size_hw)
        try:
            self._container: OutputContainer = av.open(
                str(self._unfinished),
                "w",
                format="mp4",
                options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
            )
            # Frames that are coded out of order would shift all times in a file of fragments; a fragment begins with
            # each group of pictures.
            coding = {"preset": "veryfast", "bf": "0", "g": "60"}
            stream: av.VideoStream = self._container.add_stream("libx264", rate=30, options=coding)
            stream.width, stream.height, stream.pix_fmt = self._width, self._height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
            # As many encoders as sources share the cores.
            stream.codec_context.thread_count = 1
        except (OSError, ValueError) as error:
            raise self._refusal(error) from error
        self._stream = stream

    def write(self, picture_BGR: NDArray[np.uint8], time_s: float) -> None:
        """Encode a frame; times that do not grow are moved by one tick."""
        import av
        import cv2

        self._first_s = time_s if self._first_s is None else self._first_s
        below, right = self._height - self.size_hw[0], self._width - self.size_hw[1]
        if below or right:
            picture_BGR = np.asarray(
                cv2.copyMakeBorder(picture_BGR, 0, below, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8
            )
        frame = av.VideoFrame.from_ndarray(picture_BGR, format="bgr24")
        self._last_tick = max(self._last_tick + 1, round((time_s - self._first_s) * TICKS_PER_S))
        frame.pts, frame.time_base = self._last_tick, Fraction(1, TICKS_PER_S)
        self._mux(frame)

    def close(self) -> None:
        """Write what the encoder holds and give the file its name."""
        try:
            self._mux(None)
            self._container.close()
            self._unfinished.replace(self._path)
        except (OSError, ValueError) as error:
            raise self._refusal(error) from error

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (OSError, ValueError) as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> ClientError:
        with contextlib.suppress(OSError):
            self._unfinished.unlink()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        return ClientError(f"cannot write {self._path}: {reason}")


def _draw_track_ids(picture_BGR: NDArray[np.uint8], result: Result) -> None:
    """Write each object's number into the lower left of its box."""
    import cv2

    assert result.detections is not None
    scale = max(0.5, picture_BGR.shape[0] / 1000)
    for box, track_id in zip(result.detections.xyxy, result.track_ids, strict=False):
        if track_id is None:
            continue
        place = (int(box[0]) + 3, int(box[3]) - 5)
        # Dark around light can be read on anything.
        for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            cv2.putText(
                picture_BGR, f"#{track_id}", place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA
            )
