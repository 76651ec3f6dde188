"""``--ray ADDRESS --num-workers N``: the same training in the workers of Ray Train.

Ray places the workers, joins them in a group of torch's, and starts all of them anew when one dies; what a worker does
is ``trainer.run.train``, as under torchrun (``trainer.ray_workers``). Checkpoints, data and weights are files: Ray
carries lines and settings alone.

SIGTERM and SIGINT to this process reach every worker: the step is finished and saved within ``--grace-s``. On
Kubernetes that is all a preStop hook would do: give the pod a terminationGracePeriodSeconds above ``--grace-s``, and no
hook. Under systemd a Ray that is started here (``--ray local``) wants KillMode=mixed, so that the signal comes to this
process alone. A node that is taken away costs what was done since the newest checkpoint (``--save-steps``,
``--save-minutes``).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from builder.console import show_progress
from builder.errors import SpecError
from builder.signals import Interrupted
from trainer.data import read_training_data
from trainer.distribution import Devices, parse_devices
from trainer.errors import TrainingError
from trainer.interruption import Interruption
from trainer.ray_desk import Remote
from trainer.ray_runtime import LOCAL, check_address, folder_of_ray, started_ray
from trainer.ray_workers import Request, of_exchange, work
from trainer.settings import TrainSettings, flag

_ASK_S = 0.25
_SLACK_S = 10.0
"""What the workers have beyond their own grace."""
_WAITS = 60
"""How often Ray may wait three minutes for a node that is gone to be replaced."""


def train_on_ray(settings: TrainSettings, *, address: str, workers: int, say: Callable[[str], None]) -> None:
    """Train in ``workers`` workers of the Ray at ``address``.

    Raises:
        BuilderError: the request is wrong, a worker's error, or workers that died too often.
        Interrupted: a signal came, and the state is saved.
    """
    check_address(address)
    if not settings.data.is_file():
        read_training_data(settings.data)  # says so before Ray is started
    devices = _devices(settings, address, workers)
    on_gpus, cpus = devices.kind == "cuda", settings.threads or 1
    with contextlib.ExitStack() as leaving:
        # Its own timer is the last resort: the workers' are earlier.
        signals = leaving.enter_context(Interruption(settings.grace_s + 2 * _SLACK_S))
        mark = leaving.enter_context(_marked(settings.run))
        cores = max(workers * cpus, os.cpu_count() or 1)
        leaving.enter_context(started_ray(address, cpus=cores, gpus=workers if on_gpus else 0))
        desk = Remote.started()
        request = Request(
            settings=settings,
            folder=Path.cwd(),
            files=_files(settings),
            mark=mark.absolute(),
            on_gpus=on_gpus,
            local=address == LOCAL,
            shows=os.isatty(2),
            desk=desk.actor,
        )
        storage = leaving.enter_context(folder_of_ray())
        per_worker = {"CPU": cpus, **({"GPU": 1} if on_gpus else {})}
        _tell_of_waiting(per_worker, workers, say)
        fit = _Fit(request, workers=workers, per_worker=per_worker, storage=str(storage))
        signals.begin()
        _attend(fit, desk, signals, settings, say)
        _end(fit, desk, signals, settings)


class _Fit(threading.Thread):
    """Ray's side of the training: it waits in a thread, so that signals are this program's."""

    def __init__(self, request: Request, *, workers: int, per_worker: dict[str, int], storage: str) -> None:
        super().__init__(name="ray-train", daemon=True)
        self.error: Exception | None = None
        self._request, self._workers = request, workers
        self._per_worker, self._storage = per_worker, storage
        self.start()

    def run(self) -> None:
        """Train; what ended it but the end is in ``error``."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        failures = FailureConfig(
            max_failures=self._request.settings.max_restarts,
            controller_failure_limit=_WAITS,  # type: ignore[call-arg]  # declared for Train V1
        )
        try:
            TorchTrainer(
                work,
                train_loop_config={"request": self._request},
                scaling_config=ScalingConfig(
                    num_workers=self._workers, use_gpu=self._request.on_gpus, resources_per_worker=self._per_worker
                ),
                run_config=RunConfig(name="train", storage_path=self._storage, failure_config=failures),
            ).fit()
        except Exception as e:
            self.error = e


def _attend(
    fit: _Fit, desk: Remote, signals: Interruption, settings: TrainSettings, say: Callable[[str], None]
) -> None:
    """Say what worker 0 says, and pass signals on, until Ray's side has ended."""
    told_s = 0.0
    while True:
        over = not fit.is_alive()
        news = desk.take()
        for line in news.lines:
            say(line)
        if news.shown:
            show_progress(*news.shown)
        if over:
            return
        if signals.number and not told_s:
            told_s = time.monotonic()
            if not desk.stop(signals.number):
                raise Interrupted(signals.number)
        if told_s and time.monotonic() - told_s > settings.grace_s + _SLACK_S:
            say(f"the {settings.grace_s:g} s of --grace-s are over; the newest checkpoint stays")
            raise Interrupted(signals.number)
        fit.join(_ASK_S)


def _end(fit: _Fit, desk: Remote, signals: Interruption, settings: TrainSettings) -> None:
    """Pass where the training has come to its end."""
    outcome = desk.outcome()
    if outcome.error:
        raise outcome.error
    if outcome.number:
        raise Interrupted(outcome.number)
    if fit.error is not None:
        if signals.number:
            # A worker that has not left within its grace is ended by itself.
            raise Interrupted(signals.number)
        raise _told(fit.error, settings) from fit.error


def _told(error: Exception, settings: TrainSettings) -> TrainingError:
    """One line for what Ray says in many."""
    failures: dict[int, Any] = getattr(error, "worker_failures", {})
    again = (
        "--resume goes on from the newest checkpoint, "
        + ("--max-restarts does so by itself." if not settings.max_restarts else "with a higher --max-restarts.")
    )  # fmt: skip
    for rank, failure in sorted(failures.items()):
        if of_exchange(failure):
            continue
        cause = getattr(failure, "health_check_failure", failure)
        if type(cause).__module__.startswith("ray."):
            return TrainingError(f"worker {rank} died ({_line(cause)}); {again}")
        return TrainingError(f"worker {rank} failed with {type(cause).__name__}: {_line(cause)}; {again}")
    if failures:
        return TrainingError(f"a worker of the training is gone; {again}")
    cause = getattr(error, "controller_failure", error)
    return TrainingError(f"Ray ended the training: {_line(cause)}; {again}")


def _line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


def _devices(settings: TrainSettings, address: str, workers: int) -> Devices:
    devices = parse_devices(settings.devices)
    if devices.processes != 1:
        raise SpecError(
            f"--devices {settings.devices} with --ray: expected cpu, or 0 for a GPU per worker; their number is "
            f"--num-workers, got {workers}."
        )
    if devices.kind == "cuda" and address == LOCAL:
        import torch

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if there < workers:
            raise SpecError(
                f"--ray local --num-workers {workers} on GPUs: this machine has {there} that torch can use; give "
                "fewer, --devices cpu, or the address of a cluster."
            )
    return devices


def _files(settings: TrainSettings) -> tuple[tuple[str, Path], ...]:
    values = {name: getattr(settings, name) for name in ("data", "weights", "model", "teacher", "store_key_file")}
    return tuple(
        (flag(name), Path(value)) for name, value in values.items() if value is not None and Path(value).exists()
    )


@contextlib.contextmanager
def _marked(run: Path) -> Iterator[Path]:
    """A file beside the run's folder: a worker that sees it shares that file system."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        for left in run.parent.iterdir():
            # Of a command that was killed: whoever holds the run's lock is the only one that is alive.
            if re.fullmatch(rf"\.{re.escape(run.name)}\.[0-9a-f]{{16}}", left.name):
                left.unlink(missing_ok=True)
    mark = run.parent / f".{run.name}.{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _tell_of_waiting(per_worker: dict[str, int], workers: int, say: Callable[[str], None]) -> None:
    import ray

    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, each in per_worker.items():
        if there.get(name, 0.0) < each * workers:
            free = f"Ray has {there.get(name, 0.0):g} {name}(s)"
            say(f"{free}, {workers} workers take {each * workers}: it waits for more")
