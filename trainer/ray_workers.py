"""One worker of a training on Ray: who it is, what it must see, and what it does.

Every worker reads the data and weights itself and worker 0 writes the run's folder, so they lie on a file system that
all nodes share; where the run's folder does not, ``--store`` keeps the checkpoints, and a worker 0 on another node goes
on from there.
"""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import BuilderError, SpecError
from builder.signals import Interrupted
from trainer.distribution import Process, is_of_exchange
from trainer.errors import PeerLostError
from trainer.interruption import Interruption
from trainer.ray_desk import Remote
from trainer.settings import TrainSettings

_ASK_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What each worker is given."""

    settings: TrainSettings
    folder: Path
    """That relative paths are meant from."""
    files: tuple[tuple[str, Path], ...]
    """Flags and the files they name."""
    mark: Path
    """Beside the run's folder, for as long as the training lasts."""
    on_gpus: bool
    local: bool
    """Whether all workers are on this machine."""
    shows: bool
    """Whether anybody looks at the progress of a step."""
    desk: Any


def work(config: dict[str, Any]) -> None:
    """What one worker does."""
    from ray.train import get_context

    request: Request = config["request"]
    context = get_context()
    rank = context.get_world_rank()
    desk = Remote(request.desk)
    # Ray has a group meet at a port of its own, but a worker that is alone.
    restarts = desk.begin(rank, os.environ.get("MASTER_PORT", str(os.getpid())))
    if restarts is None:
        return  # a signal or an error has ended the training while Ray started its workers anew
    goes_on = request.settings.resume or restarts > 0
    process = Process(
        rank=rank,
        local_rank=context.get_local_rank(),
        world=context.get_world_size(),
        local_world=context.get_local_world_size(),
        restarts=restarts,
        index=_gpu() if request.on_gpus else 0,
        elsewhere=goes_on and bool(request.settings.stores) and not request.local,
    )
    if process.world == 1:
        # Ultralytics, which reads it when it is imported, would take one process for several.
        os.environ.pop("RANK", None)
    if restarts and process.is_main:
        desk.say(f"all workers are started anew: restart {restarts} of at most {request.settings.max_restarts}")
    interruption = Interruption(request.settings.grace_s)
    with interruption.asked_by(desk.number):
        try:
            from trainer.run import train

            os.chdir(folder_of(request))
            check_seen(request, context.get_node_rank(), goes_on, process)
            train(
                dataclasses.replace(request.settings, resume=goes_on),
                say=desk.say,
                show=_seldom(desk.show) if request.shows else _show_nothing,
                process=process,
                interruption=interruption,
            )
        except Interrupted as e:
            desk.left(e.exit_code - 128)
        except PeerLostError:
            raise
        except BuilderError as e:
            desk.failed(rank, e)
            raise
        except Exception as e:
            if not isinstance(e, OSError) and not of_exchange(e):
                desk.say(traceback.format_exc().rstrip())
            raise


def of_exchange(error: Exception) -> bool:
    """Whether it is what a process sees when another is gone."""
    return isinstance(error, PeerLostError) or is_of_exchange(error)


def _gpu() -> int:
    from ray.train.torch import get_device

    index: int = get_device().index
    return index


def folder_of(request: Request) -> Path:
    """The folder that the request was made in, where paths are relative to it.

    Raises:
        SpecError: it is not there.
    """
    if request.folder.is_dir():
        return request.folder
    if all(path.is_absolute() for path in (request.settings.run, *(path for _, path in request.files))):
        return Path.cwd()
    raise SpecError(
        f"the folder {request.folder}, which the paths of the request are relative to, is not there on every node: "
        "give paths from / on a file system that all nodes share."
    )


def check_seen(request: Request, node: int, goes_on: bool, process: Process) -> None:
    """Pass where this worker has what it reads and writes.

    Raises:
        SpecError: a file or the run's folder is not on a file system that its node shares.
    """
    run = request.settings.run
    for name, path in request.files:
        if not path.exists():
            raise SpecError(
                f"worker {process.rank} (node {node}) does not see {name} {path}: every worker reads it; put "
                "it on a file system that all nodes share."
            )
    if request.mark.exists():
        return
    if not request.settings.stores:
        raise SpecError(
            f"worker {process.rank} (node {node}) does not see the folder of --run {run}: put it on a file system that "
            "all nodes share, or add --store, so that checkpoints outlive the node."
        )
    if process.is_main and not goes_on and run.exists() and any(run.iterdir()):
        raise SpecError(f"--run {run} is not empty on node {node}: go on with it by --resume, or name another folder.")


def _seldom(show: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    shown_s = 0.0

    def pass_on(what: str, done: int, total: int) -> None:
        nonlocal shown_s
        if done == total or time.monotonic() - shown_s >= _ASK_S:
            shown_s = time.monotonic()
            show(what, done, total)

    return pass_on


def _show_nothing(what: str, done: int, total: int) -> None:
    """Nobody looks."""
