"""``python -m builder``: arguments in, lines out; the work is elsewhere and imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.console import DEFAULT_REPOSITORY
from builder.errors import BuilderError
from builder.signals import Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 a wrong request, 3 a gate not passed, 128 + a signal's."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        print(end="", flush=True)
    except BuilderError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt as e:
        print("interrupted; nothing was published", file=sys.stderr)
        return e.exit_code if isinstance(e, Interrupted) else 128 + signal.SIGINT
    except OSError as e:
        return _io_failed(e)
    return code


def _io_failed(error: OSError) -> int:
    # The reader of a pipe may have enough, as in "| head -1"; what is left in the buffer must not fail again at exit.
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
    return 1


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m builder", description="From YOLO weights to a proven NVIDIA Triton model repository."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add(commands, "build", "build_command", "weights -> a version of a model repository")
    _add(commands, "plan", "plan_command", "add the TensorRT plan of this machine's GPU to a published model")
    _add(commands, "memory", "memory_command", "what a model takes of a GPU's memory, and how many streams fit")
    _add(commands, "doctor", "doctor.command", "find in a repository what would fail to load")
    _add(commands, "evaluate", "evaluate", "accuracy of weights, a published version, or a served model")
    _add(commands, "gpus", "gpus_command", "the GPUs that a build can aim at, and this machine's")
    _add_verify(commands.add_parser("verify", help="compare a repository with its manifests"))
    _add_serve(commands.add_parser("serve", help="start tritonserver on a repository, stop it with Ctrl-C"))
    return top


def _add(commands: Any, name: str, module: str, summary: str) -> None:
    """The command that ``builder/<module>.py`` holds."""
    command = commands.add_parser(name, help=summary)
    room = importlib.import_module(f"builder.{module}")
    command.set_defaults(run=room.run)
    room.add_arguments(command)


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_verify)
    command.add_argument("--repository", type=Path, default=DEFAULT_REPOSITORY)
    command.add_argument("--model", help="one model (default: every one)")


def _add_serve(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_serve)
    add = command.add_argument
    add("--repository", type=Path, default=DEFAULT_REPOSITORY)
    add("--config-name", metavar="NAME", help="serve configs/NAME.pbtxt: cpu, or a GPU (default: cpu without a GPU)")
    add("--model", action="append", default=[], dest="models", help="load this model alone; may be repeated")
    add("--host", default="127.0.0.1", help="address to listen on (default: loopback alone)")
    add("--http-port", type=int, default=8000)
    add("--grpc-port", type=int, default=8001)
    add("--metrics-port", type=int, default=8002)
    add("--log-file", type=Path, help="where tritonserver's log goes")


def _verify(arguments: argparse.Namespace) -> int:
    from builder.verify import verify

    findings = verify(arguments.repository, arguments.model)
    for finding in findings:
        print(finding)
    return int(any(not finding.ok for finding in findings))


def _serve(arguments: argparse.Namespace) -> int:
    from builder.serve import serve
    from builder.server_options import ServerOptions

    return serve(
        ServerOptions(
            repository=arguments.repository,
            config_name=arguments.config_name,
            host=arguments.host,
            http_port=arguments.http_port,
            grpc_port=arguments.grpc_port,
            metrics_port=arguments.metrics_port,
            models=tuple(arguments.models),
            log_file=arguments.log_file,
        )
    )
