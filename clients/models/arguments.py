"""The arguments of a command whose model may change by the clock."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from clients.errors import ClientError

if TYPE_CHECKING:
    from clients.models.scheduled import ScheduledDetector
    from clients.options import ConnectionOptions


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """Add ``--schedule``, ``--tz`` and ``--control-url``."""
    parser.add_argument(
        "--schedule",
        metavar="LABEL=MODEL@HH:MM,...",
        help="in place of --model: the model in use from each time of day on, as in "
        "day=yolo_day@06:30,night=yolo_night@20:00; an entry without a time begins at 00:00. The next model is loaded "
        "and warmed before its time (explicit control mode), the old one is unloaded after it",
    )
    parser.add_argument(
        "--tz", metavar="ZONE", help="the schedule's time zone, as Europe/Berlin (default: this machine's)"
    )
    parser.add_argument(
        "--control-url",
        metavar="URL",
        help="where a schedule's models are loaded: the server's gRPC address, which --url is unless it is HTTP",
    )


def scheduled_detector(arguments: argparse.Namespace, options: ConnectionOptions | None = None) -> ScheduledDetector:
    """The detector of ``--schedule``, with ``url``, ``timeout`` and ``send`` of the command; raises ClientError."""
    from clients.models.schedule import read_schedule, read_zone
    from clients.models.scheduled import ScheduledDetector
    from clients.options import DEFAULT_OPTIONS

    schedule = read_schedule(arguments.schedule, read_zone(arguments.tz) if arguments.tz is not None else None)
    return ScheduledDetector.from_url(
        arguments.url,
        schedule,
        control_url=arguments.control_url,
        timeout_s=arguments.timeout,
        options=options or DEFAULT_OPTIONS,
        send=arguments.send,
    )


def check_model_or_schedule(arguments: argparse.Namespace) -> None:
    """Raise ClientError unless exactly one of ``--model`` and ``--schedule`` is given."""
    if (arguments.model is None) == (arguments.schedule is None):
        got = "neither" if arguments.model is None else "both"
        raise ClientError(f"expected --model or --schedule, got {got}: give one of them")
    if arguments.schedule is None and (arguments.tz is not None or arguments.control_url is not None):
        raise ClientError("expected --tz and --control-url with --schedule only: leave them out")
