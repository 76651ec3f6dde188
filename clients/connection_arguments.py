"""The arguments of a command by which its connection to the server is trusted and let in."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clients.errors import OptionsError

if TYPE_CHECKING:
    from clients.options import ConnectionOptions


DEFAULT_URL = "grpc://127.0.0.1:8001"
"""Where a server is that runs on this machine and was not told otherwise."""


def add_connection(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Add ``--ca``, ``--cert``, ``--key`` and ``--header``.

    ``again`` adds them to a subcommand of a parser that has them: left out there, they keep what stands in front of it.
    """
    default = argparse.SUPPRESS if again else None
    add = parser.add_argument_group("connection", "for grpcs:// and https://, and for APIs that the server restricts")
    add.add_argument(
        "--ca", type=Path, default=default, metavar="PEM", help="whom to trust (default: whom the system trusts)"
    )
    add.add_argument(
        "--cert", type=Path, default=default, metavar="PEM", help="this client's own certificate, where the server asks"
    )
    add.add_argument("--key", type=Path, default=default, metavar="PEM", help="its private key")
    add.add_argument(
        "--header",
        # Under a name of its own, since a subcommand's list takes the place of the one in front of it.
        dest="later_header" if again else "header",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="sent with every request; NAME=@FILE reads the value from a file, so that no list of processes shows it; "
        "may be repeated",
    )


def connection_options(arguments: argparse.Namespace) -> ConnectionOptions:
    """What was asked for; raises OptionsError for what cannot be right, or a file that cannot be read."""
    from clients.options import ConnectionOptions

    return ConnectionOptions(
        root_certificates=arguments.ca,
        certificate=arguments.cert,
        private_key=arguments.key,
        headers=_headers([*arguments.header, *getattr(arguments, "later_header", [])]),
    )


def _headers(given: Iterable[str]) -> dict[str, str]:
    headers = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise OptionsError("expected --header NAME=VALUE or NAME=@FILE, got one without a name or a value")
        if name in headers:
            raise OptionsError(f"expected --header {name} once, it was given twice")
        headers[name] = _content(Path(value[1:]), name) if value.startswith("@") else value
    return headers


def _content(path: Path, name: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise OptionsError(f"--header {name}: {path} cannot be read: {reason}") from error
