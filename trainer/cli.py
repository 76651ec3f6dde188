"""``python -m trainer``: parses arguments, prints, and nothing else."""

from __future__ import annotations

import argparse
import importlib
import shlex
import signal
import sys
from collections.abc import Sequence

from builder.errors import BuilderError
from builder.signals import Interrupted

ROOMS = ("restore", "search", "train")
"""Commands; ``trainer/<name>_command.py`` has ``HELP``, ``add_arguments`` and ``run``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 a wrong request, 128 + a signal's number."""
    arguments = parser().parse_args(argv)
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code: int = arguments.run_command(arguments)
    except BuilderError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt as e:
        return e.exit_code if isinstance(e, Interrupted) else 128 + signal.SIGINT
    except OSError as e:
        where = f"{e.filename}: " if e.filename is not None else ""
        print(f"error: {where}{e.strerror or e}", file=sys.stderr)
        return 1
    return code


class _Parser(argparse.ArgumentParser):
    """One that takes ``@FILE`` for the arguments that a file holds."""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """The arguments of a line; ``#`` begins a comment."""
        try:
            return shlex.split(arg_line, comments=True)
        except ValueError as e:
            self.error(f"an @FILE has the line {arg_line!r}: {e}")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="python -m trainer",
        description="Trains detectors, and goes on where it was interrupted. @FILE stands for the arguments in a file.",
        fromfile_prefix_chars="@",
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for room in ROOMS:
        module = importlib.import_module(f"trainer.{room}_command")
        command = commands.add_parser(room, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run_command=module.run)
    return top
