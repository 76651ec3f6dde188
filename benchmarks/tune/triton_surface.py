"""Measures a configuration on a real tritonserver: loads it through the model-control API, then runs perf_analyzer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.load.points import ClosedLoop, LoadPoint
from benchmarks.machine import OtherLoad
from benchmarks.perf_analyzer import PerfAnalyzer, Target
from benchmarks.served import triton_server
from benchmarks.tune.config_file import as_json, input_of, with_settings
from benchmarks.tune.space import Trial
from benchmarks.tune.surface import TrialFailedError
from builder.errors import ServerError
from clients.errors import one_line
from clients.models.control import ModelControl

if TYPE_CHECKING:
    from builder.config_pbtxt import ModelConfig
    from builder.server import TritonServer

LOAD_TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long each load is measured."""

    window_s: float = 4.0
    warm_up_s: float = 1.0


@dataclass(kw_only=True)
class TritonSurface:
    """One model of a server in explicit control mode, which is loaded again for each configuration."""

    server: TritonServer
    config: ModelConfig
    """As it is in the repository."""
    analyzer: PerfAnalyzer
    timing: Timing
    other_shares: list[float] = field(default_factory=list, init=False)
    """Of the CPU, used by other processes during each measurement."""
    _loaded: ModelConfig | None = field(default=None, init=False)

    def measure(self, trial: Trial) -> LoadPoint:
        """One window of perf_analyzer with random pixels."""
        wanted = with_settings(self.config, trial.settings)
        if wanted != self._loaded:
            self._loaded = None
            self._load(wanted)
            self._loaded = wanted
        name, shape = input_of(self.config)
        target = Target(
            url=self.server.grpc_url,
            model=self.config.name,
            shape=shape,
            input_name=name,
            server_pid=self.server.pid,
        )
        load, timing = ClosedLoop(concurrency=trial.clients), self.timing
        others = OtherLoad(self.server.pid)
        try:
            return self.analyzer.measure(target, load, window_s=timing.window_s, warm_up_s=timing.warm_up_s)
        except ServerError as error:
            # Loading again is what tells a configuration that cannot be measured from a server that is gone.
            self._loaded = None
            raise TrialFailedError(str(error)) from error
        finally:
            self.other_shares.append(others.share())

    def _load(self, config: ModelConfig) -> None:
        import tritonclient.grpc as grpcclient
        from tritonclient.utils import InferenceServerException

        # Not beside the one that was measured before: a GPU may have room for one of them alone.
        with ModelControl(self.server.grpc_url, timeout_s=LOAD_TIMEOUT_S) as control:
            control.unload(config.name)
            control.wait_until_unloaded(config.name)
        address = self.server.grpc_url.removeprefix("grpc://")
        with contextlib.closing(grpcclient.InferenceServerClient(address)) as client:
            try:
                client.load_model(config.name, config=as_json(config), client_timeout=LOAD_TIMEOUT_S)
            except InferenceServerException as error:
                raise TrialFailedError(f"it does not load: {one_line(error.message())}") from error


@contextlib.contextmanager
def serving(
    repository: Path, config_name: str, config: ModelConfig, analyzer: PerfAnalyzer, timing: Timing
) -> Iterator[TritonSurface]:
    """A surface on a server of its own."""
    with triton_server(repository, config.name, config_name=config_name) as server:
        yield TritonSurface(server=server, config=config, analyzer=analyzer, timing=timing)
