"""The command line: ``python -m clients``.

Each command is a function that adds its parser and one that runs it; nothing heavy is imported before one runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clients import argument_types
from clients.connection_arguments import DEFAULT_URL, add_connection, connection_options
from clients.errors import ClientError, ImageError

if TYPE_CHECKING:
    from clients.detections import Detections
    from clients.images import Pixels

INTERRUPTED = 128 + 2
"""The exit code of a shell's command that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            # What Pillow finds odd in a file comes as an error, or does not matter to the pixels.
            warnings.filterwarnings("ignore", module="PIL")
            exit_code: int = arguments.run(arguments)
        print(end="", flush=True)
    except ClientError as error:
        _complain(error)
        return 1
    except OSError as error:
        # What is left in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # The reader of a pipe may have enough, as in "| head -1"; a full disk is worth a word.
        if not isinstance(error, BrokenPipeError):
            _complain(ClientError(f"cannot write the output: {error.strerror}"))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clients", description="Use a detector that a Triton server serves."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_detect(commands)
    for name, module, summary in (
        ("stream", "video.command", "cameras, videos and folders, many at once"),
        ("models", "models.command", "what a server has; load, unload and switch versions"),
        ("gateway", "gateway.command", "offer a served detector over GraphQL to programs that have no gRPC"),
        (
            "keepwarm",
            "keepwarm_command",
            "a light request every so often, so that the next real one finds the server warm",
        ),
    ):
        room = importlib.import_module(f"clients.{module}")
        command = commands.add_parser(name, help=summary)
        room.add_arguments(command)
        command.set_defaults(run=room.run)
    return parser


def _add_detect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "detect",
        help="find objects in image files",
        description="Find objects in image files. Exit code 1: an image could not be read, or the server not be used.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG, WebP, BMP or TIFF")
    _add_server(parser)
    parser.add_argument(
        "--confidence",
        type=argument_types.fraction,
        default=0.25,
        metavar="C",
        help="leave out what is less certain (default 0.25)",
    )
    parser.add_argument(
        "--send",
        choices=("pixels", "encoded", "shared-memory"),
        default="pixels",
        help="how images go to the server: encoded, to the model that build --encoded publishes, or shared-memory, "
        "where it runs on this machine (default pixels)",
    )
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the pictures with boxes drawn into this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image and line")
    parser.set_defaults(run=_detect)


def _add_server(parser: argparse.ArgumentParser) -> None:
    """What every command needs that speaks to a model."""
    parser.add_argument(
        "--url", default=DEFAULT_URL, help=f"grpc://HOST:PORT or http://HOST:PORT (default {DEFAULT_URL})"
    )
    parser.add_argument(
        "--model", required=True, type=argument_types.name, metavar="NAME", help="the model's name on the server"
    )
    parser.add_argument(
        "--timeout",
        type=argument_types.seconds,
        default=30.0,
        metavar="S",
        help="seconds allowed for each request (default 30)",
    )
    add_connection(parser)


def _detect(arguments: argparse.Namespace) -> int:
    from clients.detector import Detector
    from clients.draw import draw
    from clients.images import read_pixels
    from clients.saving import PictureFolder

    failed = 0
    options = connection_options(arguments)
    url, model, send = arguments.url, arguments.model, arguments.send
    with Detector(url, model, timeout_s=arguments.timeout, options=options, send=send) as detector:
        folder = PictureFolder(arguments.save, arguments.images) if arguments.save else None
        for path in arguments.images:
            try:
                pixels = read_pixels(path)
                detections = detector.detect(path if send == "encoded" else pixels, arguments.confidence)
            except ImageError as error:
                _complain(error)
                failed += 1
                continue
            saved = folder.save(path, draw(pixels, detections)) if folder else None
            print(_json(path, pixels, detections) if arguments.json else _text(path, pixels, detections), flush=True)
            if saved and not arguments.json:
                print(f"  saved {_shown(saved)}", flush=True)
    return 1 if failed else 0


def _text(path: Path, pixels: Pixels, detections: Detections) -> str:
    count = f"{len(detections)} object{'' if len(detections) == 1 else 's'}"
    lines = [f"{_shown(path)}: {pixels.width}x{pixels.height}, {count}"]
    for detection in detections:
        box = " ".join(f"{side:.1f}" for side in detection.xyxy)
        lines.append(f"  {detection.name} {detection.confidence:.2f}  xyxy {box}")
    return "\n".join(lines)


def _json(path: Path, pixels: Pixels, detections: Detections) -> str:
    return json.dumps(
        {"path": str(path), "width": pixels.width, "height": pixels.height, "detections": detections.to_list()}
    )


def _shown(path: Path) -> str:
    """A path that can be printed: file names are bytes, and need not be text."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _complain(error: ClientError) -> None:
    print(f"error: {error}", file=sys.stderr)
