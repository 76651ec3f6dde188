"""Does a served graph compile for a GPU that is not there? TensorRT-RTX says so for each compute capability it knows.

It has TensorRT's parser and a compiler that needs no GPU. The compiler runs in a process of its own, as it may crash or
hang; network, profiles and configuration are those of ``builder.engine``'s plans.
"""

from __future__ import annotations

import contextlib
import enum
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.engine import (
    LOG,
    CompileRefusedError,
    EngineOptions,
    Library,
    Profile,
    load_library,
    serialize,
    what_is_missing,
)
from builder.errors import BuilderError, ExportError

if TYPE_CHECKING:
    from builder.artifacts import OnnxModel
    from builder.engine_callbacks import Progress


_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


class Outcome(enum.StrEnum):
    """How a compile check ended."""

    COMPILED = "compiled"
    REFUSED = "refused"
    """The graph was read and not compiled: it may be TensorRT-RTX's own limit."""
    FAILED = "failed"
    """The compiler's process died or took too long: nothing is known of the graph."""
    NOT_CHECKED = "not_checked"
    """TensorRT-RTX is not installed, or does not know the compute capability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileCheck:
    """What TensorRT-RTX says to one graph for one compute capability."""

    compute_capability: str
    """``7.5``"""
    outcome: Outcome
    message: str = ""
    """The refusal as the compiler words it, or why nothing was checked."""
    seconds: float = 0.0
    """The process's start included."""
    plan_bytes: int = 0
    activation_bytes: int | None = None
    """What the compiled engine takes for activations and scratch, as the compiler's log says; None where it does not.
    TensorRT's own engine may take more or less."""
    version: str = ""
    """TensorRT-RTX's; empty where it could not be loaded."""

    @property
    def warning(self) -> str | None:
        """A line for the user; None where the graph compiles."""
        if self.outcome is Outcome.COMPILED:
            return None
        if self.outcome is Outcome.NOT_CHECKED:
            return f"SM {self.compute_capability} is not checked: {self.message}"
        subject = f"SM {self.compute_capability}: TensorRT-RTX {self.version}"
        if self.outcome is Outcome.FAILED:
            return f"{subject} did not finish: {self.message}"
        return f"{subject} refuses the graph, which may be a limit of TensorRT-RTX alone: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"outcome": self.outcome.value, "seconds": round(self.seconds, 2)}


def check_compiles(
    model: OnnxModel,
    compute_capabilities: Sequence[str],
    profiles: Sequence[Profile],
    *,
    options: EngineOptions | None = None,
    limit_s: float = 300.0,
    progress: Progress = lambda what, done, total: None,
) -> tuple[CompileCheck, ...]:
    """Compile the graph by TensorRT-RTX for each compute capability; no GPU is used.

    Each runs in a process of its own with ``limit_s`` seconds, as the compiler can hang (seen with 1.7.1 when memory is
    short). A capability that is named twice is checked once.

    Raises:
        ExportError: the file is missing or the parser refuses the graph, which no compute capability changes.
    """
    capabilities = tuple(dict.fromkeys(compute_capabilities))
    if not model.path.is_file():
        raise ExportError(f"expected a graph at {model.path}, there is no such file.")
    if message := what_is_missing(Library.TENSORRT_RTX):
        return tuple(
            CompileCheck(compute_capability=each, outcome=Outcome.NOT_CHECKED, message=message) for each in capabilities
        )
    request = {
        "path": str(model.path),
        "profiles": [asdict(each) for each in profiles],
        "options": (options or EngineOptions()).to_json(),
        "limit_s": limit_s,
        "level": LOG.getEffectiveLevel(),
    }
    return tuple(_check_one(request, each, progress) for each in capabilities)


def _check_one(request: dict[str, Any], capability: str, progress: Progress) -> CompileCheck:
    start = time.perf_counter()
    result: dict[str, Any] = {}
    other: list[str] = []
    with _child(request | {"compute_capability": capability}) as process:
        for line in process.stdout or ():
            event = _event(line)
            if "log" in event:
                LOG.log(event["log"][0], "SM %s: %s", capability, event["log"][1])
            elif "progress" in event:
                what, done, total = event["progress"]
                progress(f"SM {capability}: {what}", done, total)
            elif event:
                result |= event
            else:
                other.append(line.strip())
        code = process.wait()
    if "export_error" in result:
        raise ExportError(result["export_error"])
    if "outcome" not in result:
        result["outcome"] = Outcome.FAILED
        result["message"] = _how_it_ended(code, request["limit_s"], other)
    return CompileCheck(
        compute_capability=capability,
        outcome=Outcome(result["outcome"]),
        message=result.get("message", ""),
        seconds=time.perf_counter() - start,
        plan_bytes=result.get("plan_bytes", 0),
        activation_bytes=result.get("activation_bytes"),
        version=result.get("version", ""),
    )


@contextlib.contextmanager
def _child(request: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """This module in a process of its own, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "builder.compile_check", json.dumps(request)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _event(line: str) -> dict[str, Any]:
    """What the child says in one line; empty for a line that is not the child's own, such as a traceback's."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _how_it_ended(code: int, limit_s: float, output: Sequence[str]) -> str:
    if code == -signal.SIGALRM:
        return f"not finished within {limit_s:g} s"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"the compiler's process ended ({how}){': ' if output else ''}{' | '.join(output[-3:])[:400]}"


def _main(request: dict[str, Any]) -> None:
    """The child: one compile check, told to the parent as lines of JSON."""
    # The kernel ends this process, also when the parent is gone and the compiler hangs.
    signal.setitimer(signal.ITIMER_REAL, request["limit_s"])

    def tell(**event: Any) -> None:
        print(json.dumps(event), flush=True)

    def log(level: int, text: str) -> None:
        if found := _ACTIVATIONS.search(text):
            tell(activation_bytes=int(found[1]))
        if level >= request["level"]:
            tell(log=[level, text])

    try:
        trt = load_library(Library.TENSORRT_RTX)
        tell(version=trt.__version__)
        plan = serialize(
            trt,
            Path(request["path"]),
            [Profile(**each) for each in request["profiles"]],
            EngineOptions.from_json(request["options"]),
            compute_capability=request["compute_capability"],
            log=log,
            progress=lambda what, done, total: tell(progress=[what, done, total]),
        )
    except ExportError as e:
        tell(export_error=str(e))
    except CompileRefusedError as e:
        tell(outcome=Outcome.REFUSED, message=str(e))
    except BuilderError as e:
        tell(outcome=Outcome.NOT_CHECKED, message=str(e))
    else:
        tell(outcome=Outcome.COMPILED, plan_bytes=len(plan))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
