"""Simulated cameras for minutes, at a total rate just under what the machine can answer: memory, delay, every frame.

The cameras are full HD videos that play in real time, each with a phase of its own, and what reads them is
``python -m clients stream``, as a process of its own. What the machine can answer is measured first, with the same
videos and the same command: on a machine without a GPU they take part of the cores that the model has.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.clients_report import CameraRun
from benchmarks.clients_work import Frames, Subject
from benchmarks.figures import percentile_ms
from benchmarks.machine import PROC
from benchmarks.threads import running
from builder.errors import ServerError

CAPACITY_S = 20.0
"""The length of the first run, which finds out what can be answered; never longer than the second."""
CAPACITY_FPS = 25
VIDEO_FRAMES = 48
START_S = 5.0
"""In which connections are made and buffers grow, a tenth of the time at most: it counts in the account alone."""
SAMPLE_S = 1.0
STOP_S = 60.0
MIB = 2**20
_ACCOUNT = re.compile(r"(\d+) captured = (\d+) answered \+ (\d+) dropped \+ (\d+) failed in ([\d.]+) s")


def run_cameras(
    subject: Subject, *, cameras: int, minutes: float, share: float, progress: Callable[[str], None]
) -> CameraRun:
    """Measure what can be answered, then run so many cameras at ``share`` of it.

    Raises:
        ServerError: the stream did not end as it should.
    """
    with tempfile.TemporaryDirectory() as folder:
        videos = _Videos(Path(folder), subject.frames, cameras)
        first = _Stream(subject, videos.at(Fraction(CAPACITY_FPS)), min(CAPACITY_S, minutes * 60), Path(folder))
        flat_out = first.run("--as-fast-as-possible")
        capacity = flat_out.answered / flat_out.seconds
        progress(f"{cameras} cameras, as fast as they are answered: {capacity:.1f} frames/s")
        rate = Fraction(round(1000 * share * capacity / cameras), 1000)
        stream = _Stream(subject, videos.at(rate), minutes * 60, Path(folder))
        account = stream.run()
        return _report(stream, account, cameras=cameras, minutes=minutes, share=share, capacity=capacity)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Account:
    """The last line that ``stream`` prints."""

    captured: int
    answered: int
    dropped: int
    failed: int
    seconds: float


class _Videos:
    """One full HD video for each camera: the same packets at different times."""

    def __init__(self, folder: Path, frames: Frames, cameras: int) -> None:
        self._folder, self._frames, self._cameras = folder, frames, cameras

    def at(self, rate: Fraction) -> list[Path]:
        """The videos of so many frames per second."""
        folder = self._folder / f"{float(rate):g}"
        folder.mkdir()
        return [
            self._write(folder / f"camera{number:02}.mp4", rate, Fraction(number, self._cameras))
            for number in range(self._cameras)
        ]

    def _write(self, path: Path, rate: Fraction, phase: Fraction) -> Path:
        """All frames after the first come a part of a frame's time later: cameras do not look at the same moment."""
        import av

        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
            stream.height, stream.width = self._frames[0].shape[:2]
            stream.pix_fmt, stream.time_base = "yuv420p", 1 / (1000 * rate)
            stream.gop_size = VIDEO_FRAMES
            for number in range(VIDEO_FRAMES):
                frame = av.VideoFrame.from_ndarray(self._frames[number % len(self._frames)], format="bgr24")
                frame.pts = 1000 * number + (round(1000 * phase) if number else 0)
                frame.time_base = 1 / (1000 * rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path


class _Stream:
    """One run of ``python -m clients stream``."""

    def __init__(self, subject: Subject, videos: list[Path], seconds: float, folder: Path) -> None:
        # Another run's lines would stay in front of these.
        self._lines = Path(tempfile.mkdtemp(dir=folder)) / "lines.jsonl"
        self._command = [
            *(sys.executable, "-m", "clients", "stream", *map(str, videos), "--loop", "--model", subject.name),
            *("--url", subject.server.grpc_url, "--duration", f"{seconds:g}", "--json", str(self._lines)),
        ]
        self._seconds = seconds
        self._server_pid = subject.server.pid
        self.memory_bytes: list[tuple[float, int, int]] = []
        """Seconds since 1970, resident bytes of the stream and of the server."""

    def run(self, *more: str) -> _Account:
        """Run to the end; raises ServerError where it does not end as it should."""
        with (
            subprocess.Popen(
                [*self._command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process,
            _sampling(lambda: self._sample(process.pid)),
        ):
            try:
                said, _ = process.communicate(timeout=self._seconds + STOP_S)
            except BaseException as error:
                process.kill()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise ServerError(
                        f"expected stream to end {STOP_S:g} s after its time at most, it did not"
                    ) from error
                raise
        found = _ACCOUNT.findall(said)
        if process.returncode or not found:
            raise ServerError(f"stream ended with exit code {process.returncode}: {said.strip()[-500:]}")
        captured, answered, dropped, failed = map(int, found[-1][:4])
        return _Account(
            captured=captured, answered=answered, dropped=dropped, failed=failed, seconds=float(found[-1][4])
        )

    def latencies_s(self) -> Iterator[tuple[float, float]]:
        """Of each answered frame: when it was captured, in seconds since 1970, and how long its answer took."""
        with self._lines.open() as lines:
            for line in map(json.loads, lines):
                if "detections" in line:
                    yield datetime.fromisoformat(line["captured_at"]).timestamp(), line["latency_ms"] / 1e3

    def line_count(self) -> int:
        """Frames that were written down, with boxes or with an error."""
        with self._lines.open() as lines:
            return sum(1 for _ in lines)

    def _sample(self, pid: int) -> None:
        self.memory_bytes.append((time.time(), _resident_bytes(pid), self._server_bytes()))

    def _server_bytes(self) -> int:
        """Of all processes of the server's session."""
        total = 0
        for path in PROC.glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[3]) == self._server_pid:
                    total += _resident_bytes(int(path.parent.name))
        return total


@contextlib.contextmanager
def _sampling(sample: Callable[[], None]) -> Iterator[None]:
    """Sample every second while the block runs."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(SAMPLE_S):
            sample()

    with running([threading.Thread(target=repeat, name="memory")], stop.set):
        yield


def _resident_bytes(pid: int) -> int:
    """What a process has in memory now; 0 where it has ended."""
    try:
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _report(
    stream: _Stream, account: _Account, *, cameras: int, minutes: float, share: float, capacity: float
) -> CameraRun:
    end_s = minutes * 60
    start_s = min(START_S, end_s / 10)
    third_s = (end_s - start_s) / 3
    first, last = (start_s, start_s + third_s), (end_s - third_s, end_s)
    times = np.array(list(stream.latencies_s())).reshape(-1, 2)
    # The stream's own time begins with its first frame, once it is imported and connected.
    began_at = times[:, 0].min(initial=np.inf)
    times[:, 0] -= began_at

    def latencies_ms(third: tuple[float, float]) -> tuple[float, float]:
        of_third = times[(times[:, 0] >= third[0]) & (times[:, 0] < third[1]), 1].tolist()
        if not of_third:
            raise ServerError("expected answers in the first and the last third, got none: give it more minutes")
        return percentile_ms(of_third, 50), percentile_ms(of_third, 99)

    def memory_mib(third: tuple[float, float], column: int) -> float:
        since = [(each[0] - began_at, each) for each in stream.memory_bytes if each[1]]
        sampled = [each[column] for at_s, each in since if third[0] <= at_s < third[1]]
        return median(sampled) / MIB if sampled else 0.0

    return CameraRun(
        cameras=cameras,
        minutes=minutes,
        capacity_frames_per_s=capacity,
        share=share,
        captured=account.captured,
        answered=account.answered,
        dropped=account.dropped,
        failed=account.failed,
        written_down=stream.line_count(),
        seconds=account.seconds,
        memory_mib=(memory_mib(first, 1), memory_mib(last, 1)),
        server_memory_mib=(memory_mib(first, 2), memory_mib(last, 2)),
        latency_p50_ms=(latencies_ms(first)[0], latencies_ms(last)[0]),
        latency_p99_ms=(latencies_ms(first)[1], latencies_ms(last)[1]),
    )
