"""A tritonserver whose own log tells when it was up and how long a model took to load."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.served import free_ports
from builder.server import TritonServer
from builder.server_options import ServerOptions

_LINE = re.compile(r"^[IWE]\d{4} (\d\d):(\d\d):(\d\d\.\d+) .*?\] \"?(.*?)\"?$")
_DAY_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadTimes:
    """Seconds, from Triton's log; None where it has no such lines: another release may word them differently."""

    up_s: float | None
    """From the process's start until Triton begins to load the model: what it takes without any model."""
    load_s: float | None
    """Until the model is loaded, with everything that warms it."""


@contextlib.contextmanager
def logged_server(
    repository: Path, models: Sequence[str], config_name: str | None
) -> Iterator[tuple[TritonServer, Path]]:
    """A ready tritonserver on free ports of the loopback, in explicit control mode, and where its log is.

    ``config_name`` picks ``configs/<config_name>.pbtxt``, None ``config.pbtxt``.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        log = Path(folder, "log")
        http_port, grpc_port, metrics_port = free_ports(3)
        options = ServerOptions(
            repository=repository,
            config_name=config_name,
            models=tuple(models),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            log_file=log,
        )
        yield stack.enter_context(TritonServer(options)), log


def load_times(log: str, model: str, ready_after_s: float) -> LoadTimes:
    """What the log of a server that was started with one model tells; READY came right after its endpoints opened.

    Only differences between the log's own lines are taken: its clock is in a time zone that nobody names.
    """
    at: dict[str, float] = {}
    for line in log.splitlines():
        if found := _LINE.match(line):
            hours, minutes, seconds, text = found.groups()
            moment = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            if text.startswith(f"loading: {model}:"):
                at["loading"] = moment
            elif text.startswith(f"successfully loaded '{model}'"):
                at["loaded"] = moment
            elif text.startswith("Started HTTPService"):
                at["open"] = moment

    def between(start: str, end: str) -> float | None:
        # The log tells no year, so a midnight between two lines takes a day from their difference.
        return (at[end] - at[start]) % _DAY_S if start in at and end in at else None

    loading_to_open = between("loading", "open")
    return LoadTimes(
        up_s=None if loading_to_open is None else max(0.0, ready_after_s - loading_to_open),
        load_s=between("loading", "loaded"),
    )
