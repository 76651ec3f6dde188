"""``python -m clients stream``: cameras, videos and pictures through a detector, many at once."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from clients import argument_types
from clients.connection_arguments import DEFAULT_URL, add_connection, connection_options
from clients.errors import ClientError
from clients.models.arguments import add_schedule, check_model_or_schedule, scheduled_detector

if TYPE_CHECKING:
    from clients.detector import Detector
    from clients.models.scheduled import ScheduledDetector
    from clients.video.runner import Output, RunOptions, StreamRunner
    from clients.video.sources import Source
    from clients.video.table import Display

DEFAULT_TIMEOUT_S = 5.0
REFRESH_S = 0.25
LARGE_BLOCK_BYTES = 256 << 10
_M_MMAP_THRESHOLD = -3
SIGNALS = (signal.SIGINT, signal.SIGTERM)
DESCRIPTION = """
Find objects in cameras, videos and pictures, many at once. Of a camera, and of a video, which is played in real time,
the latest frame is sent as soon as a request is free; older ones are dropped and counted, so that a slow server costs
frames and not time. A camera that is lost is connected to again. Ctrl-C ends the run with a summary; a second one
gives up what is in flight. Exit code 1: a file could not be read whole, or no frame of a source was answered.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that ``stream`` takes."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a video, a picture, a folder of them, or a camera as rtsp://... or http://...; NAME=SOURCE names it",
    )
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the server's address (default {DEFAULT_URL})")
    parser.add_argument("--model", metavar="NAME", help="the model's name on the server")
    add_schedule(parser)
    parser.add_argument(
        "--send",
        choices=("pixels", "shared-memory"),
        default="pixels",
        help="how frames go to the server; shared-memory where it runs on this machine (default pixels)",
    )
    parser.add_argument(
        "--timeout",
        type=argument_types.above_0,
        default=DEFAULT_TIMEOUT_S,
        metavar="S",
        help=f"seconds allowed for each request (default {DEFAULT_TIMEOUT_S:g})",
    )
    parser.add_argument(
        "--confidence",
        type=argument_types.fraction,
        default=0.25,
        metavar="C",
        help="leave out what is less certain (default 0.25)",
    )
    parser.add_argument(
        "--fps",
        type=argument_types.above_0,
        metavar="N",
        help="take at most N frames per second of video (default: all)",
    )
    parser.add_argument(
        "--in-flight",
        type=argument_types.count,
        metavar="N",
        help="requests at once, of all sources together (default: two per source, at most twice the largest batch)",
    )
    parser.add_argument(
        "--priority",
        action="append",
        default=[],
        metavar="SOURCE=LEVEL",
        help="Triton's priority for a source: 1 is the highest; here too its frames go first; may be repeated",
    )
    parser.add_argument("--save", type=Path, metavar="DIR", help="write an MP4 with boxes drawn for each source")
    parser.add_argument("--json", metavar="FILE", help="add one JSON object per frame and line; - for standard output")
    parser.add_argument(
        "--metrics-port",
        type=argument_types.port,
        metavar="P",
        help="serve Prometheus metrics on 127.0.0.1:P; 0 takes a free port",
    )
    parser.add_argument(
        "--track", action="store_true", help="number objects across frames (needs: pip install trackers)"
    )
    parser.add_argument("--duration", type=argument_types.above_0, metavar="S", help="end after S seconds")
    parser.add_argument(
        "--as-fast-as-possible",
        action="store_true",
        help="read videos in files as fast as they are answered, and drop nothing",
    )
    parser.add_argument("--loop", action="store_true", help="play files again and again")
    add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the streams to their end; the exit code."""
    from clients.video.sources import sources_from

    check_model_or_schedule(arguments)
    sources = sources_from(arguments.sources, arguments.priority)
    _check_libraries()
    _return_large_blocks()
    from clients.video.runner import StreamRunner
    from clients.video.table import display_on, summary

    shown_on = sys.stderr if arguments.json == "-" else sys.stdout
    with contextlib.ExitStack() as handling:
        with (
            _detector(arguments) as detector,
            contextlib.ExitStack() as closing,
            display_on(shown_on) as display,
        ):
            if arguments.schedule is not None:
                closing.enter_context(_said_by_the_schedule(display.say))
            options = _run_options(arguments, len(sources), detector.max_batch_size)
            runner = StreamRunner(sources, detector, options, _outputs(arguments, sources), display.say)
            if arguments.metrics_port is not None:
                from clients.video.metrics import MetricsServer, StreamMetrics

                server = MetricsServer(StreamMetrics(sources, runner.views, runner.statuses), arguments.metrics_port)
                closing.callback(server.close)
                display.say(f"metrics at {server.url}")
            # To the very end: a signal that comes after the last answer must not cost a video its end.
            signals = handling.enter_context(_counted_signals())
            _run_to_the_end(runner, display, arguments.duration, signals, give_up=detector.close)
        print(summary(runner), file=shown_on, flush=True)
        runner.close()
    is_whole = not any(status.broken for status in runner.statuses())
    return 0 if is_whole and all(view.answered for view in runner.views()) else 1


def _detector(arguments: argparse.Namespace) -> Detector | ScheduledDetector:
    from clients.detector import Detector

    options = connection_options(arguments)
    if arguments.schedule is None:
        send, timeout_s = arguments.send, arguments.timeout
        return Detector(arguments.url, arguments.model, timeout_s=timeout_s, options=options, send=send)
    return scheduled_detector(arguments, options)


@contextlib.contextmanager
def _said_by_the_schedule(say: Callable[[str], None]) -> Iterator[None]:
    """Show when which model takes over, and what keeps one from it, among the run's other lines."""
    log, handler = logging.getLogger("clients.models.scheduled"), logging.Handler()
    handler.emit = lambda record: say(f"schedule: {record.getMessage()}")  # type: ignore[method-assign]
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _check_libraries() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ClientError("stream needs: pip install 'yolo-triton[video]' (PyAV)") from error


def _return_large_blocks() -> None:
    """Have glibc give every frame's memory back when it is freed, where the C library is glibc.

    By default it learns to keep blocks of a frame's size in a heap for each thread, and dozens of threads that pass
    frames to each other make those heaps grow for minutes (mallopt(3), M_MMAP_THRESHOLD).
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def _run_options(arguments: argparse.Namespace, sources: int, max_batch_size: int) -> RunOptions:
    from clients.video.reader import ReadOptions
    from clients.video.runner import RunOptions
    from clients.video.tracking import ByteTracker

    drops_nothing = arguments.as_fast_as_possible
    # Two: while one is computed the next is on its way. More would only wait in the server.
    wanted = 2 * max_batch_size if drops_nothing else min(2 * sources, 2 * max_batch_size)
    if arguments.track:
        ByteTracker()
    return RunOptions(
        reading=ReadOptions(fps=arguments.fps, drops_nothing=drops_nothing, loops=arguments.loop),
        in_flight=arguments.in_flight or min(wanted, argument_types.HIGHEST_COUNT),
        confidence=arguments.confidence,
        tracker=(lambda: ByteTracker(arguments.fps)) if arguments.track else None,
    )


def _outputs(arguments: argparse.Namespace, sources: Sequence[Source]) -> list[Output]:
    from clients.video.outputs import AnnotatedVideos, JsonLines

    outputs: list[Output] = []
    if arguments.json is not None:
        outputs.append(JsonLines(arguments.json))
    if arguments.save is not None:
        outputs.append(AnnotatedVideos(arguments.save, sources))
    return outputs


def _run_to_the_end(
    runner: StreamRunner,
    display: Display,
    duration_s: float | None,
    signals: Sequence[int],
    give_up: Callable[[], None],
) -> None:
    """Run until the sources end, the time is over, or a signal comes; ``give_up`` fails what is in flight."""
    ends_s = time.monotonic() + (math.inf if duration_s is None else duration_s)
    is_stopping = has_given_up = False
    runner.start()
    try:
        while not runner.wait(REFRESH_S):
            display.show(runner)
            if not is_stopping and (signals or time.monotonic() >= ends_s):
                is_stopping = True
                runner.stop()
            if len(signals) > 1 and not has_given_up:
                has_given_up = True
                give_up()
    except BaseException:
        runner.stop()
        raise


@contextlib.contextmanager
def _counted_signals() -> Iterator[list[int]]:
    """The signals that ask the process to end, as they come; where it is not the main thread, none come.

    Whatever still holds the process, a third one ends it.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def count(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)

    before = {number: signal.signal(number, count) for number in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
