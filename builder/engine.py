"""A served graph becomes a TensorRT plan; the only module that imports TensorRT or TensorRT-RTX.

``build_plan`` builds for the GPU of this machine. ``check_compiles`` needs no GPU: TensorRT-RTX has TensorRT's parser
and compiler, and compiles for the compute capabilities that it knows. Both go through the same network, profiles and
configuration.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cache import file_sha256
from builder.durable import write_file
from builder.errors import BuilderError, ExportError

if TYPE_CHECKING:
    import tensorrt  # type: ignore[import-not-found, unused-ignore]

    from builder.artifacts import OnnxModel

Progress = Callable[[str, int, int], None]
"""What is being done, steps done, steps in all."""

LOG = logging.getLogger("builder.tensorrt")
LOG.addHandler(logging.NullHandler())

# TensorRT-RTX looks for a driver whenever it reports anything, and compiles without one.
_NO_DRIVER = re.compile(r"\[checkMacros\.cpp::catchCudaError[^\n]*\(cudaError (?:35|100): [^\n]*")
_ASSERTION = re.compile(r'&& "(.+)"\s*$')
_QUOTED_ERRORS = 5


class Library(enum.StrEnum):
    """The two that share TensorRT's interface, by the name of their Python module."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"

    @property
    def extra(self) -> str:
        """The extra of this project that installs it."""
        return self.value.replace("_", "-")


class HardwareCompatibility(enum.StrEnum):
    """On which other GPUs a plan may run, by TensorRT's names."""

    NONE = "none"
    AMPERE_PLUS = "ampere_plus"
    SAME_COMPUTE_CAPABILITY = "same_compute_capability"


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The shapes that an engine takes: batches, and the size of the images where the graph leaves it open."""

    batch_min: int = 1
    batch_opt: int = 1
    batch_max: int = 1
    imgsz: tuple[int, int] | None = None
    """Height and width in pixels, for a graph whose size is dynamic."""

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: not 1 <= batch_min <= batch_opt <= batch_max.
        """
        batches = (self.batch_min, self.batch_opt, self.batch_max)
        if not 1 <= batches[0] <= batches[1] <= batches[2]:
            raise ValueError(f"expected 1 <= batch_min <= batch_opt <= batch_max, got {batches}")

    def shapes(self, name: str, dims: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Least, best and largest shape of the input ``name``, whose open dimensions are -1.

        Raises:
            ExportError: the graph's batch is fixed, its size is open and the profile names none, or fixed to another.
        """
        if dims[0] != -1:
            raise ExportError(
                f"input {name} has a fixed batch of {dims[0]}, and the profile asks for {self.batch_min} to "
                f"{self.batch_max}; export the graph with a dynamic batch."
            )
        rest = list(dims[1:])
        open_dims = [i for i, dim in enumerate(rest) if dim == -1]
        if open_dims and len(open_dims) != len(self.imgsz or ()):
            raise ExportError(f"input {name} has the shape {list(dims)}: give the profile its height and width.")
        if not open_dims and self.imgsz and list(self.imgsz) not in (rest[:2], rest[1:]):
            raise ExportError(f"input {name} has the fixed shape {list(dims)}, and the profile asks for {self.imgsz}.")
        # Height comes before width in NHWC and in NCHW.
        for i, pixels in zip(open_dims, self.imgsz or (), strict=False):
            rest[i] = pixels
        return (self.batch_min, *rest), (self.batch_opt, *rest), (self.batch_max, *rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What the compiler is told; None leaves TensorRT's own default."""

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    """0 to 5."""
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    timing_cache: Path | None = None
    """Read where it exists, and written again. It belongs to one GPU, driver and TensorRT version.
    TensorRT-RTX has the calls and does nothing with it."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {
            "hardware_compatibility": self.hardware_compatibility.value,
            "timing_cache": str(self.timing_cache) if self.timing_cache else None,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EngineOptions:
        """What ``to_json`` gave, read back from JSON."""
        cache = values["timing_cache"]
        compatibility = HardwareCompatibility(values["hardware_compatibility"])
        return cls(**values | {"hardware_compatibility": compatibility, "timing_cache": Path(cache) if cache else None})


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A serialized engine: TensorRT's bytes and nothing in front of them."""

    path: Path
    sha256: str
    library: Library
    version: str
    """The library's: a plan loads in this version alone."""
    profiles: tuple[Profile, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, all but the path."""
        values = asdict(self) | {"library": self.library.value, "seconds": round(self.seconds, 2)}
        del values["path"]
        return values


class CompileRefusedError(BuilderError):
    """The graph was read, and the compiler does not build it; the message quotes the compiler."""


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
    if importlib.util.find_spec(Library.TENSORRT_RTX) is None:
        message = _not_installed(Library.TENSORRT_RTX)
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
        version=result.get("version", ""),
    )


def build_plan(
    model: OnnxModel,
    profiles: Sequence[Profile],
    output_path: Path,
    *,
    library: Library = Library.TENSORRT,
    compute_capability: str | None = None,
    options: EngineOptions | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Plan:
    """Build a plan in this process and write it whole.

    Not run so far: TensorRT itself, which needs a GPU. What runs in the tests is this function with TensorRT-RTX.

    Args:
        model: the served graph; its precision is in the graph (strongly typed).
        profiles: at least one.
        output_path: the plan, written when it is complete.
        library: TENSORRT builds for the GPU of this machine.
        compute_capability: for TENSORRT_RTX alone, which compiles without a GPU: ``8.6``.
        options: the compiler's settings.
        progress: called for each step of each of TensorRT's phases; what it raises ends the build.

    Raises:
        BuilderError: the library is not installed, or does not know the compute capability.
        ExportError: the parser refuses the graph.
        CompileRefusedError: the compiler does.
    """
    start = time.perf_counter()
    trt = _load(library)
    plan = _serialize(
        trt,
        model.path,
        profiles,
        options or EngineOptions(),
        compute_capability=compute_capability,
        log=LOG.log,
        progress=progress,
    )
    _write_whole(output_path, plan)
    return Plan(
        path=output_path,
        sha256=file_sha256(output_path),
        library=library,
        version=trt.__version__,
        profiles=tuple(profiles),
        seconds=time.perf_counter() - start,
    )


def _load(library: Library) -> Any:
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as e:
        known = importlib.util.find_spec(library) is not None
        raise BuilderError(f"{library.value} cannot be loaded: {e}" if known else _not_installed(library)) from e


def _not_installed(library: Library) -> str:
    return f"{library.value} is not installed; run: pip install 'yolo-triton[{library.extra}]'"


def _serialize(
    trt: Any,
    path: Path,
    profiles: Sequence[Profile],
    options: EngineOptions,
    *,
    compute_capability: str | None,
    log: Callable[[int, str], None],
    progress: Progress,
) -> bytes:
    """The plan's bytes, by TensorRT or TensorRT-RTX."""
    errors: list[str] = []
    monitor = _monitor(trt, progress)
    # Builder and parser keep no reference to their logger.
    logger = _logger(trt, log, errors, without_gpu=compute_capability is not None)
    builder: tensorrt.Builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, logger, path)
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    _target(trt, config, compute_capability)
    _configure(trt, config, options)
    for profile in profiles:
        _add_profile(builder, network, config, profile)
    errors.clear()
    plan = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if plan is None:
        raise CompileRefusedError(" | ".join(errors) or "the compiler gives no reason")
    if options.timing_cache is not None:
        _write_whole(options.timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _parse(trt: Any, network: tensorrt.INetworkDefinition, logger: tensorrt.ILogger, path: Path) -> None:
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    name = f"{path.name} cannot be read by {_title(trt)}"
    if not parser.parse_from_file(str(path)):
        reasons = list(dict.fromkeys(_reason(parser.get_error(i)) for i in range(parser.num_errors)))
        more = f"; and {len(reasons) - _QUOTED_ERRORS} more" if len(reasons) > _QUOTED_ERRORS else ""
        raise ExportError(f"{name}: {'; '.join(reasons[:_QUOTED_ERRORS])}{more}. Change these layers of the network.")
    # A file that is no ONNX is read as an empty graph, and no error is given.
    if not network.num_layers or not network.num_inputs:
        raise ExportError(f"{name}: it holds no graph; expected an ONNX file.")


def _reason(error: tensorrt.ParserError) -> str:
    """One parser error: the node, and what is wrong with it."""
    kind = str(error.code()).rpartition(".")[2].lower().replace("_", " ")
    text = " ".join(_NO_DRIVER.sub("", error.desc()).split())
    found = _ASSERTION.search(text)
    text = found[1] if found else text
    # A checker that knows no more gives its own condition.
    detail = "" if text in ("", "false") else f": {text[:400].rstrip('.?')}"
    node = f"node {error.node_name() or error.node()} ({error.node_operator()}): " if error.node() >= 0 else ""
    return f"{node}{kind}{detail}"


def _target(trt: Any, config: Any, compute_capability: str | None) -> None:
    if compute_capability is None:
        return
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in getattr(getattr(trt, "ComputeCapability", None), "__members__", {}).items()
        if name.startswith("SM")
    }
    if compute_capability not in known:
        raise BuilderError(
            f"{_title(trt)} compiles for {', '.join(known) or 'this GPU only'}, not {compute_capability}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[compute_capability], 0)


def _configure(trt: Any, config: tensorrt.IBuilderConfig, options: EngineOptions) -> None:
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatibility is not HardwareCompatibility.NONE:
        level = options.hardware_compatibility.name
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.__members__[level]
    if options.timing_cache is not None:
        saved = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(saved), ignore_mismatch=False):
            # Timings of another GPU or version are worth nothing here.
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _add_profile(
    builder: tensorrt.Builder, network: tensorrt.INetworkDefinition, config: tensorrt.IBuilderConfig, profile: Profile
) -> None:
    shapes = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        dims: Any = tensor.shape  # a Dims has all of a sequence but the type
        least, best, largest = profile.shapes(tensor.name, tuple(dims))
        shapes.set_shape(tensor.name, least, best, largest)  # type: ignore[arg-type, unused-ignore]  # takes tuples too
    if config.add_optimization_profile(shapes) < 0:
        raise CompileRefusedError(f"TensorRT takes no profile of {profile}")


def _write_whole(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_file(scratch, content)
        scratch.replace(path)
    except OSError as e:
        raise BuilderError(f"{path} cannot be written: {e.strerror or e}") from e
    finally:
        scratch.unlink(missing_ok=True)


def _title(trt: Any) -> str:
    return f"{'TensorRT-RTX' if trt.__name__ == Library.TENSORRT_RTX else 'TensorRT'} {trt.__version__}"


def _logger(trt: Any, log: Callable[[int, str], None], errors: list[str], *, without_gpu: bool) -> Any:
    """TensorRT's log in Python's levels; what it calls an error is kept in ``errors`` as well."""
    severity = trt.ILogger.Severity
    levels = {severity.VERBOSE: logging.DEBUG, severity.INFO: logging.INFO, severity.WARNING: logging.WARNING}

    class Log(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.ERROR)
            text = _NO_DRIVER.sub("", msg).strip() if without_gpu else msg.strip()
            if level == logging.ERROR and text:
                errors.append(text)
            log(level if text else logging.DEBUG, text or msg)

    return Log()


def _monitor(trt: Any, progress: Progress) -> Any:
    """An IProgressMonitor; what ``progress`` raises, a Ctrl-C too, is kept in ``failure`` and ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            # The last step of a phase is not always told; a build that is being stopped finishes its phases, too.
            if steps and self.failure is None:
                self._tell(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1, self._steps.get(phase_name, step + 1))
            return self.failure is None

        def _tell(self, phase_name: str, done: int, total: int) -> None:
            try:
                progress(phase_name, min(done, total), total)
            except BaseException as e:  # an exception must not pass through the compiler
                self.failure = e

    return Monitor()


@contextlib.contextmanager
def _child(request: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """This module in a process of its own, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "builder.engine", json.dumps(request)],
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
        if level >= request["level"]:
            tell(log=[level, text])

    try:
        trt = _load(Library.TENSORRT_RTX)
        tell(version=trt.__version__)
        plan = _serialize(
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
