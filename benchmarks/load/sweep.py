"""Measures a model under one load after the other, in turns."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from benchmarks.load.counters import Statistics
from benchmarks.load.inputs import write_input_data
from benchmarks.load.points import Load, LoadFailure, LoadReport
from benchmarks.load.windows import LoadWindow, counters_of, point_of
from benchmarks.machine import OtherLoad, environment, other_load_text
from benchmarks.perf_analyzer import NotMeasuredError, PerfAnalyzer, Target
from benchmarks.pictures import letterboxed, picture_paths
from benchmarks.served import triton_server
from builder.errors import ServerError, SpecError
from builder.nvml import NoGpuError, read_devices
from clients.contract import Contract, contract_from_config
from clients.wire.address import address_from

Send = Literal["grpc", "http", "shared-memory"]
Progress = Callable[[str], None]

SERVED_URLS = {"grpc": "grpc://127.0.0.1:8001", "http": "http://127.0.0.1:8000"}
"""Of ``python -m builder serve``, for who runs a command by hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """What was asked for."""

    model: str
    loads: tuple[Load, ...]
    repository: Path
    """Its server is started anew for each turn, unless there is a ``url``."""
    config_name: str
    """Of ``configs/<config_name>.pbtxt``; empty: ``config.pbtxt``."""
    url: str | None
    """Of a server that runs."""
    send: Send
    batch: int
    images: tuple[Path, ...]
    gpu: str | None
    repeats: int
    """Turns."""
    window_s: float
    warm_up_s: float
    perf_analyzer: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """What came of it."""

    report: LoadReport
    config: dict[str, Any]
    """Triton's ModelConfig."""
    commands: tuple[str, ...]
    """What measures each load by hand."""


def measure_sweep(options: SweepOptions, tool: PerfAnalyzer, argv: Sequence[str], progress: Progress) -> Sweep:
    """Every load in every turn; ``progress`` gets a line as each turn ends.

    A load that cannot be measured, as one at which requests fail, is not asked for again.

    Raises:
        BuilderError: the server cannot be started, or does not answer.
        ClientError: the model is not a detector of this project.
        SpecError: a picture cannot be read.
    """
    run = _Run(options, tool)
    for turn in range(options.repeats):
        with _served(options) as (url, pid):
            run.turn(turn, url, pid)
        progress(f"turn {turn + 1} of {options.repeats}: {run.last_turn_text()}")
    return run.sweep(argv)


@contextlib.contextmanager
def _served(options: SweepOptions) -> Iterator[tuple[str, int | None]]:
    """The server's URL, and its process where it is ours."""
    if options.url is not None:
        yield options.url, None
        return
    with triton_server(options.repository, options.model, config_name=options.config_name) as server:
        yield server.http_url if options.send == "http" else server.grpc_url, server.pid


@dataclass
class _Run:
    """The windows of all turns."""

    options: SweepOptions
    tool: PerfAnalyzer
    windows: dict[Load, list[LoadWindow]] = field(default_factory=dict)
    failures: dict[Load, str] = field(default_factory=dict)
    other_shares: list[float] = field(default_factory=list)
    target: Target | None = None
    config: dict[str, Any] = field(default_factory=dict)
    server_version: str = ""

    def turn(self, number: int, url: str, pid: int | None) -> None:
        self.target = replace(self.target, url=url, server_pid=pid) if self.target else self._target(url, pid)
        others = OtherLoad(pid) if pid is not None else None
        for load in self.options.loads:
            if load not in self.failures:
                self._measure(self.target, load, number)
        if others:
            self.other_shares.append(others.share())

    def _target(self, url: str, pid: int | None) -> Target:
        options = self.options
        with Statistics(address_from(url)) as server:
            self.config, self.server_version = server.model_config(options.model), server.server_version()
        _check_no_ensemble(self.config, options.model)
        contract = contract_from_config(self.config, model=options.model)
        _check_batch(options.batch, contract)
        return Target(
            url=url,
            model=options.model,
            shape=(*contract.size_hw, 3),
            data=write_input_data(letterboxed(picture_paths(options.images), contract.size_hw)),
            shared_memory=options.send == "shared-memory",
            batch=options.batch,
            server_pid=pid,
        )

    def _measure(self, target: Target, load: Load, seed: int) -> None:
        options = self.options
        try:
            window = self.tool.window(target, load, window_s=options.window_s, warm_up_s=options.warm_up_s, seed=seed)
        except NotMeasuredError as error:
            self.failures[load] = error.reason
            # Some repetitions of such a load are no measurement of it.
            self.windows.pop(load, None)
        else:
            self.windows.setdefault(load, []).append(window)

    def last_turn_text(self) -> str:
        return ", ".join(
            f"{load}: not measured" if load in self.failures else f"{load}: {self.windows[load][-1].images_per_s:.1f}/s"
            for load in self.options.loads
        )

    def sweep(self, argv: Sequence[str]) -> Sweep:
        if not self.windows:
            load, reason = next(iter(self.failures.items()))
            raise ServerError(f"no load could be measured; {load}: {reason}")
        measured = [window for windows in self.windows.values() for window in windows]
        report = LoadReport(
            model=self.options.model,
            gpu=self.options.gpu,
            points=tuple(point_of(load, self.windows[load]) for load in self.options.loads if load in self.windows),
            service_ms={} if answers_after_its_call(self.config) else counters_of(measured).service_ms,
            environment=self._environment(argv),
            failures=tuple(LoadFailure(load=load, reason=reason) for load, reason in self.failures.items()),
        )
        return Sweep(report=report, config=self.config, commands=self._commands())

    def _environment(self, argv: Sequence[str]) -> dict[str, str]:
        options, protocol = self.options, self._protocol()
        names = ", ".join(path.name for path in picture_paths(options.images))
        how = "system shared memory" if options.send == "shared-memory" else protocol
        rows = {
            "tritonserver": self.server_version,
            "perf_analyzer": self.tool.name.removeprefix("perf_analyzer "),
            "images": f"{names}; {options.batch} a request, {how}",
            "windows": f"{options.repeats} of {options.window_s:g} s, each after {options.warm_up_s:g} s of warm-up"
            + ("" if options.url else " and on a server of its own start"),
            **_gpu_rows(),
        }
        if self.other_shares:
            rows["other load"] = other_load_text(fmean(self.other_shares))
        return environment(argv, **rows)

    def _protocol(self) -> str:
        assert self.target is not None, "no turn was made"
        return "gRPC" if address_from(self.target.url).is_grpc else "HTTP"

    def _commands(self) -> tuple[str, ...]:
        """By hand the server is one that was started by hand."""
        options, target = self.options, self.target
        assert target is not None, "no turn was made"
        serve = ["python", "-m", "builder", "serve", "--repository", str(options.repository), "--model", options.model]
        if options.config_name:
            serve += ["--config-name", options.config_name]
        if options.url is None:
            target = replace(target, url=SERVED_URLS["grpc" if self._protocol() == "gRPC" else "http"])
        seconds = options.warm_up_s + options.window_s
        lines = [shlex.join(self.tool.command_line(target, load, seconds=seconds)) for load in options.loads]
        return (*([] if options.url else [shlex.join(serve)]), *lines)


def _check_no_ensemble(config: Mapping[str, Any], model: str) -> None:
    steps = [str(step["model_name"]) for step in config.get("ensemble_scheduling", {}).get("step", ())]
    if steps:
        raise SpecError(
            f"--model {model}: it is an ensemble of {', '.join(steps)}; Triton counts queues and batches by its steps, "
            "so measure the detector among them"
        )


def _check_batch(batch: int, contract: Contract) -> None:
    if batch > contract.max_batch_size:
        raise SpecError(f"--batch {batch}: {contract.model} takes up to {contract.max_batch_size} images in a request")


def answers_after_its_call(config: dict[str, Any]) -> bool:
    """Whether Triton's compute is the hand-over to the model's process alone: this project's models on OpenVINO."""
    return config.get("backend") == "python"


def _gpu_rows() -> dict[str, str]:
    try:
        devices = read_devices()
    except NoGpuError:
        return {}
    return {"GPU": ", ".join(device.name for device in devices), "driver": devices[0].driver_version or "not known"}
