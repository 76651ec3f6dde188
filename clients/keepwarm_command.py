"""``python -m clients keepwarm``: a light request now and then, so that the next real one finds the server warm."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from types import FrameType
from typing import TYPE_CHECKING

from clients import argument_types
from clients.connection_arguments import DEFAULT_URL, add_connection, connection_options
from clients.errors import AddressError, ClientError, OptionsError

if TYPE_CHECKING:
    from clients.options import ConnectionOptions

DEFAULT_EVERY = "24h"
DEFAULT_REQUESTS = 3
GREY = 114
DESCRIPTION = """
Send a grey picture a few times, at once and then every so often, so that what a server has let go of while nobody asked
is there again before the next real request. "python -m benchmarks coldstart --keepwarm-s S" measures whether it helps.
A round that fails is one line, and the next one comes in its time; with --once it is exit code 1. Ctrl-C and SIGTERM
end it.
"""
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_LONGEST_S = 365 * 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round took, in milliseconds, with an answer to each request."""

    first_ms: float
    median_ms: float


def rewarm(url: str, model: str, *, requests: int, timeout_s: float, options: ConnectionOptions) -> Round:
    """Send that many grey pictures of the model's size, one after the other; raises the errors of ``clients.errors``.

    Which of a model's instances each reaches is Triton's choice.
    """
    import numpy as np

    from clients.detector import Detector
    from clients.images import read_pixels

    # A connection that lay idle for a day is one that something on its way has dropped.
    with Detector(url, model, timeout_s=timeout_s, options=options) as detector:
        picture = read_pixels(np.full((*detector.size, 3), GREY, np.uint8))
        took_ms = []
        for _ in range(requests):
            start = time.perf_counter()
            detector.detect(picture)
            took_ms.append((time.perf_counter() - start) * 1e3)
    return Round(first_ms=took_ms[0], median_ms=median(took_ms))


def duration_s(text: str) -> float:
    """The type of an argument: ``90``, ``90s``, ``15m``, ``24h`` or ``7d``, in seconds."""
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 15m, 24h or 7d, at most 365d, got {text}")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help="grpc://HOST:PORT or http://HOST:PORT; may be repeated, each server is warmed: a name that stands for "
        f"several servers leads to one of them (default {DEFAULT_URL})",
    )
    parser.add_argument(
        "--model", required=True, type=argument_types.name, metavar="NAME", help="the model's name on the server"
    )
    parser.add_argument(
        "--every",
        type=duration_s,
        default=duration_s(DEFAULT_EVERY),
        metavar="TIME",
        help=f"from the start of a round to the next: 90s, 15m, 24h, 7d (default {DEFAULT_EVERY})",
    )
    parser.add_argument("--once", action="store_true", help="one round, for a scheduler that repeats it")
    parser.add_argument(
        "--requests",
        type=argument_types.count,
        default=DEFAULT_REQUESTS,
        metavar="N",
        help=f"of each round, one after the other (default {DEFAULT_REQUESTS})",
    )
    parser.add_argument(
        "--timeout",
        type=argument_types.seconds,
        default=30.0,
        metavar="S",
        help="seconds allowed for each request (default 30)",
    )
    add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Warm once, or until a signal comes; its exit code. Raises OptionsError and AddressError."""
    options = connection_options(arguments)
    urls = arguments.url or [DEFAULT_URL]
    if arguments.once:
        failed = [url for url in urls if not _warm(url, arguments, options)]
        return 1 if failed else 0
    with _ended_by_signals() as check:
        while True:
            started = time.monotonic()
            for url in urls:
                _warm(url, arguments, options)
                check()
            time.sleep(max(0.0, started + arguments.every - time.monotonic()))


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt at Ctrl-C and SystemExit at SIGTERM, in the block or at its end.

    What is given raises it, too: an exception that comes in a destructor, as gRPC's channels have one, or while a C
    extension is imported is lost.
    """
    came: list[int] = []

    def check() -> None:
        if signal.SIGINT in came:
            raise KeyboardInterrupt
        if came:
            # A supervisor ends so what has no end of its own.
            sys.exit(0)

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        check()

    # SIGTERM without a handler does nothing to a container's first process.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        check()


def _warm(url: str, arguments: argparse.Namespace, options: ConnectionOptions) -> bool:
    """Warm one server, and say what it took or why not; whether it was."""
    at = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        took = rewarm(url, arguments.model, requests=arguments.requests, timeout_s=arguments.timeout, options=options)
    except (AddressError, OptionsError):
        # Waiting heals neither.
        raise
    except ClientError as error:
        print(f"{at} error: {error}", file=sys.stderr, flush=True)
        return False
    print(
        f"{at} {arguments.model} at {url}: first {took.first_ms:.1f} ms, "
        f"median of {arguments.requests} {took.median_ms:.1f} ms",
        flush=True,
    )
    return True
