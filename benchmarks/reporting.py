"""What the commands share: arguments of a number, where figures are written, and how they are reported."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Protocol, TypeVar

from builder.durable import replace_file
from builder.errors import SpecError

TARGET_MISSED = 3
_NOT_BESIDE = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENAMETOOLONG})


def add_reporting(command: argparse.ArgumentParser, *, repeats: int) -> None:
    """``--repeats``, ``--json`` and ``--check``."""
    add = command.add_argument
    add("--repeats", type=positive(int), default=repeats, help=f"turns (default: {repeats})")
    add_output(command)


def add_page(command: argparse.ArgumentParser, what: str = "charts") -> None:
    """``--html``."""
    command.add_argument("--html", type=Path, metavar="FILE", help=f"write a page with {what}")


def add_output(command: argparse.ArgumentParser) -> None:
    """``--json`` and ``--check``."""
    add = command.add_argument
    add("--json", type=Path, metavar="FILE", help="write every figure there too")
    add("--check", action="store_true", help=f"exit code {TARGET_MISSED} where a target is not met")


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of an argument: a number of that kind above 0, not infinite."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
        return value

    # argparse names the type in its message.
    convert.__name__ = kind.__name__
    return convert


def count(text: str) -> int:
    """The type of an argument: a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text}")
    return int(text)


class Report(Protocol):
    """What every benchmark gives."""

    @property
    def all_met(self) -> bool:
        """Whether every target is met."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""

    def to_text(self) -> str:
        """What is printed."""


AReport = TypeVar("AReport", bound=Report)


def reported(
    arguments: argparse.Namespace, measure: Callable[[], AReport], page: Callable[[AReport], str] | None = None
) -> int:
    """Measure, print, and write ``--json`` and ``--html`` (its ``page``) where they were asked for; the exit code.

    Raises:
        SpecError: a file's folder is not there, before anything is measured; or it cannot be written.
    """
    as_data: Path | None = arguments.json
    as_page: Path | None = arguments.html if page else None
    check_folder("--json", as_data)
    check_folder("--html", as_page)
    report = measure()
    print(report.to_text())
    if as_data:
        write_file("--json", as_data, as_json(report.to_json()))
    if page and as_page:
        write_file("--html", as_page, page(report))
    return TARGET_MISSED if arguments.check and not report.all_met else 0


def check_behind(words: Sequence[str], ours: AbstractSet[str]) -> None:
    """Pass where none of the arguments behind -- is one that the benchmark gives; raises SpecError else."""
    if given := sorted(ours & {word.partition("=")[0] for word in words}):
        raise SpecError(f"{given[0]} behind --: the benchmark gives it; leave it out.")


def check_folder(flag: str, path: Path | None) -> None:
    """Before anything is measured; raises SpecError where the folder of an asked-for file is not there."""
    if path and not path.parent.is_dir():
        raise SpecError(f"{flag} {path}: expected the folder {path.parent}, found none; make it, or name another")


def write_file(flag: str, path: Path, text: str) -> None:
    """Write it whole or not at all, once the figures are printed; raises SpecError where it cannot be written."""
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")  # what it leads to stays what it is, such as /dev/stdout
        else:
            _replace(path, text)
    except OSError as e:
        raise SpecError(f"{flag} {path}: cannot be written: {e.strerror}; the figures are above") from e


def _replace(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode())
    except OSError as e:
        # Its folder may take no other name, or none so long, or the file is a mount of its own.
        if e.errno not in _NOT_BESIDE:
            raise
        path.write_text(text, encoding="utf-8")


def as_json(value: object) -> str:
    """As every command writes it."""
    return json.dumps(value, indent=2) + "\n"


_checks: list[Callable[[], None]] = []


@contextlib.contextmanager
def checked_at_progress(check: Callable[[], None]) -> Iterator[None]:
    """Have ``check`` called at each line of progress: what it raises ends the measurement."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


def progress(line: str) -> None:
    """A line for those who wait; what is printed on stdout are the figures."""
    for check in _checks:
        check()
    print(line, file=sys.stderr, flush=True)
