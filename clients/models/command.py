"""``python -m clients models``: what a server has, and which of it is loaded."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from clients import argument_types
from clients.connection_arguments import DEFAULT_URL, add_connection, connection_options
from clients.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clients.models.control import ModelControl
    from clients.wire.failures import ModelState

DEFAULT_TIMEOUT_S = 900.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "List, load and unload the models of a server, and choose the version that it serves. What changes the server "
        "needs one in explicit control mode, and goes over gRPC at best: while tritonserver loads a model that was "
        "asked for over HTTP, it answers hardly anything else over HTTP. Exit code 1: the server refused, or a model "
        "could not be loaded."
    )
    parser.set_defaults(action=_list)
    _add_connection(parser, url=DEFAULT_URL, timeout=DEFAULT_TIMEOUT_S, as_json=False)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    _add_action(actions, "list", _list, "every model with its state (without an action, the same)", named=False)
    _add_action(actions, "load", _load, "load a model, or load it again where its files have changed")
    _add_action(actions, "unload", _unload, "unload a model; requests in flight are answered")
    _add_action(actions, "versions", _versions, "the versions of a model that the server has loaded or tried to load")
    use = _add_action(
        actions,
        "use",
        _use,
        "serve one version of a loaded model and no other, until it is unloaded; the old one answers meanwhile",
    )
    use.add_argument("--version", type=_version, required=True, metavar="N", help="the version's number")
    add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run it; its exit code. Raises the errors of ``clients.errors``."""
    from clients.models.control import ModelControl

    options = connection_options(arguments)
    with ModelControl(arguments.url, timeout_s=arguments.timeout, options=options) as control:
        shown = arguments.action(control, arguments)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in shown]))
    else:
        _print_table(shown)
    return 0


def _list(control: ModelControl, arguments: argparse.Namespace) -> list[ModelState]:
    return control.models()


def _versions(control: ModelControl, arguments: argparse.Namespace) -> list[ModelState]:
    return control.versions(arguments.name)


def _load(control: ModelControl, arguments: argparse.Namespace) -> list[ModelState]:
    control.load(arguments.name)
    return control.versions(arguments.name)


def _unload(control: ModelControl, arguments: argparse.Namespace) -> list[ModelState]:
    control.unload(arguments.name)
    control.wait_until_unloaded(arguments.name)
    return control.versions(arguments.name)


def _use(control: ModelControl, arguments: argparse.Namespace) -> list[ModelState]:
    control.use(arguments.name, arguments.version)
    return control.versions(arguments.name)


def _print_table(entries: Sequence[ModelState]) -> None:
    rows = [
        (entry.name, entry.version or "-", entry.state or "not loaded", one_line(entry.reason)) for entry in entries
    ]
    table = [("MODEL", "VERSION", "STATE", ""), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[3]]).rstrip())


def _add_action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    action: object,
    help_text: str,
    *,
    named: bool = True,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
    parser.set_defaults(action=action)
    if named:
        parser.add_argument("name", type=argument_types.name, metavar="NAME", help="the model's name on the server")
    # Left out, they keep what stands in front of the action.
    _add_connection(parser, url=argparse.SUPPRESS, timeout=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
    add_connection(parser, again=True)
    return parser


def _add_connection(parser: argparse.ArgumentParser, *, url: str, timeout: float | str, as_json: bool | str) -> None:
    parser.add_argument(
        "--url", default=url, help=f"grpc://HOST:PORT or http://HOST:PORT of the server (default {DEFAULT_URL})"
    )
    parser.add_argument(
        "--timeout",
        type=argument_types.seconds,
        default=timeout,
        metavar="S",
        help=f"seconds that loading or unloading may take (default {DEFAULT_TIMEOUT_S:g})",
    )
    parser.add_argument("--json", action="store_true", default=as_json, help="print a JSON list")


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a version's number from 1, got {text}")
    return int(text)
