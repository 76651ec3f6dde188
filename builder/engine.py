"""A served graph becomes a TensorRT plan; the only module that imports TensorRT or TensorRT-RTX.

``build_plan`` builds for the GPU of this machine. TensorRT-RTX has TensorRT's parser and compiler, and compiles without
a GPU for the compute capabilities that it knows (``builder.compile_check``). TensorRT 10 and 11 and TensorRT-RTX go
through the same network, profiles and configuration.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cache import file_sha256
from builder.durable import replace_file
from builder.engine_callbacks import Progress, compiler_log, progress_monitor
from builder.engine_network import parse_graph, title
from builder.errors import BuilderError, ExportError

if TYPE_CHECKING:
    import tensorrt  # type: ignore[import-not-found, unused-ignore]

    from builder.artifacts import OnnxModel

LOG = logging.getLogger("builder.tensorrt")
LOG.addHandler(logging.NullHandler())


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
    device_memory_bytes: int | None = None
    """What one execution context takes for activations and scratch, with the largest of the profiles' shapes. None
    where the plan cannot be loaded on this machine, as what TensorRT-RTX compiles without a GPU."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, all but the path."""
        values = asdict(self) | {"library": self.library.value, "seconds": round(self.seconds, 2)}
        del values["path"]
        return values


class CompileRefusedError(BuilderError):
    """The graph was read, and the compiler does not build it; the message quotes the compiler."""


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
    trt = load_library(library)
    plan = serialize(
        trt,
        model.path,
        profiles,
        options or EngineOptions(),
        compute_capability=compute_capability,
        log=LOG.log,
        progress=progress,
    )
    _write(output_path, plan)
    return Plan(
        path=output_path,
        sha256=file_sha256(output_path),
        library=library,
        version=trt.__version__,
        profiles=tuple(profiles),
        seconds=time.perf_counter() - start,
        device_memory_bytes=_device_memory_bytes(trt, plan),
    )


def load_library(library: Library) -> Any:
    """The library's Python module.

    Raises:
        BuilderError: it is not installed or does not load.
    """
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as e:
        raise BuilderError(what_is_missing(library) or f"{library.value} cannot be loaded: {e}") from e


def what_is_missing(library: Library) -> str | None:
    """What to do where the library is not installed; None where it is."""
    if importlib.util.find_spec(library) is not None:
        return None
    return f"{library.value} is not installed; run: pip install 'yolo-triton[{library.extra}]'"


def serialize(
    trt: Any,
    path: Path,
    profiles: Sequence[Profile],
    options: EngineOptions,
    *,
    compute_capability: str | None,
    log: Callable[[int, str], None],
    progress: Progress,
) -> bytes:
    """The plan's bytes, by TensorRT or TensorRT-RTX, whose module is ``trt``; what it raises, ``build_plan`` says."""
    errors: list[str] = []
    monitor = progress_monitor(trt, progress)
    # Builder and parser keep no reference to their logger.
    logger = compiler_log(trt, log, errors, without_gpu=compute_capability is not None)
    builder: tensorrt.Builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parse_graph(trt, network, logger, path)
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    _target(trt, config, compute_capability)
    configure(trt, config, options)
    for profile in profiles:
        _add_profile(builder, network, config, profile)
    errors.clear()
    plan = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if plan is None:
        raise CompileRefusedError(" | ".join(errors) or "the compiler gives no reason")
    if options.timing_cache is not None:
        _write(options.timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _strongly_typed(trt: Any) -> int:
    """The network's flags: TensorRT 10 has to be told, and 11 knows no other network (its migration guide)."""
    flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _target(trt: Any, config: Any, compute_capability: str | None) -> None:
    if compute_capability is None:
        return
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in getattr(getattr(trt, "ComputeCapability", None), "__members__", {}).items()
        if name.startswith("SM")
    }
    if compute_capability not in known:
        raise BuilderError(f"{title(trt)} compiles for {', '.join(known) or 'this GPU only'}, not {compute_capability}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[compute_capability], 0)


def configure(trt: Any, config: Any, options: EngineOptions) -> None:
    """Put the options into an IBuilderConfig of the library whose module is ``trt``.

    Raises:
        BuilderError: the library has no such hardware compatibility.
    """
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatibility is not HardwareCompatibility.NONE:
        _make_compatible(trt, config, options.hardware_compatibility)
    if options.timing_cache is not None:
        saved = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
        cache = config.create_timing_cache(saved)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            # Timings of another GPU or version are worth nothing here.
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _make_compatible(trt: Any, config: Any, wanted: HardwareCompatibility) -> None:
    level = trt.HardwareCompatibilityLevel.__members__.get(wanted.name)
    if level is not None:
        config.hardware_compatibility_level = level
    # TensorRT-RTX has the levels, and sets none of them.
    if level is None or config.hardware_compatibility_level != level:
        raise BuilderError(f"{title(trt)} has no hardware compatibility {wanted.value}; ask for none.")


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


def _device_memory_bytes(trt: Any, plan: bytes) -> int | None:
    """Of the engine, which only this machine's GPU can load."""
    # That it cannot be loaded is no error of the build.
    logger = compiler_log(trt, lambda _, text: LOG.debug(text), [], without_gpu=False)
    try:
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    except (RuntimeError, TypeError) as e:  # TypeError: the Runtime itself was not made
        LOG.debug(str(e))
        return None
    if engine is None:
        return None
    # TensorRT 10.0 has the first of these names alone, 11 the second.
    bytes_ = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if bytes_ is None else bytes_)


def _write(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as e:
        raise BuilderError(f"{path} cannot be written: {e.strerror or e}") from e
