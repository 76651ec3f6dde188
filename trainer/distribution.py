"""The processes of one training: who they are, and what they tell each other.

torchrun sets RANK, LOCAL_RANK and WORLD_SIZE; without them there is one process. Ray Train's workers are told who they
are, and in a group already (``trainer.ray_workers``). Gradients travel by NCCL between GPUs and by gloo between CPUs.
Decisions travel by gloo on the CPU in both cases: waiting for a GPU to read a flag would stall it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from builder.errors import SpecError
from trainer.errors import TrainingError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """What ``--devices`` asks for."""

    kind: str
    """``cpu`` or ``cuda``."""
    indexes: tuple[int, ...]
    """A GPU for each process; on CPUs 0, 1, …"""

    @property
    def processes(self) -> int:
        """Processes of one machine."""
        return len(self.indexes)


def parse_devices(text: str) -> Devices:
    """``cpu``, ``cpu,cpu`` or GPUs as ``0`` and ``0,1``.

    Raises:
        SpecError: it is neither.
    """
    words = [word.strip() for word in text.split(",")]
    if all(word == "cpu" for word in words):
        return Devices(kind="cpu", indexes=tuple(range(len(words))))
    if not all(word.isascii() and word.isdigit() for word in words) or len(set(words)) != len(words):
        raise SpecError(f"--devices: expected cpu, cpu,cpu or different GPUs as 0 or 0,1, got {text!r}.")
    return Devices(kind="cuda", indexes=tuple(int(word) for word in words))


def check_devices(devices: Devices) -> None:
    """Pass where the devices are there.

    Raises:
        SpecError: one is not.
    """
    if devices.kind == "cpu":
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    absent = [str(index) for index in devices.indexes if index >= count]
    if absent:
        found = f"{count} GPU(s), 0 to {count - 1}" if count else "no GPU that torch can use"
        raise SpecError(f"--devices {','.join(map(str, devices.indexes))}: there is {found}; use --devices cpu.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One process of a training."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1
    local_world: int = 1
    restarts: int = 0
    """How often torchrun or Ray has started its processes anew."""
    index: int | None = None
    """The GPU that Ray gave it; None: the one that --devices says."""
    elsewhere: bool = False
    """Whether the run may have been on another machine, whose newest checkpoints only a store has."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0


def this_process() -> Process:
    """By the environment that torchrun sets."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world <= 1:
        return Process(restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
    local_rank = int(os.environ["LOCAL_RANK"])
    return Process(
        rank=int(os.environ["RANK"]),
        local_rank=local_rank,
        world=world,
        local_world=int(os.environ.get("LOCAL_WORLD_SIZE", world)),
        restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )


class Group:
    """All processes of a training; with one process every call answers at once."""

    def __init__(self, process: Process, kind: str, index: int) -> None:
        """Join; waits for the others."""
        import torch
        import torch.distributed as dist

        self.process = process
        self.device = torch.device(kind, index) if kind == "cuda" else torch.device("cpu")
        self._owns = False
        self._decisions: Any = None
        self.statistics: Any = None
        """The group of batch norm's statistics: they travel while gradients do, in an order of their own."""
        if process.world == 1:
            return
        if kind == "cuda":
            torch.cuda.set_device(index)
        if not dist.is_initialized():
            dist.init_process_group(
                "nccl" if kind == "cuda" else "gloo", store=_store(process), rank=process.rank, world_size=process.world
            )
            self._owns = True
        self._decisions = dist.new_group(backend="gloo")
        self.statistics = dist.new_group() if kind == "cpu" else None

    def most(self, values: Sequence[int]) -> list[int]:
        """The largest of each value among all processes."""
        if self.process.world == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._decisions)
        return [int(value) for value in tensor]

    def from_main(self, value: T) -> T:
        """What rank 0 gives; the others' is not looked at."""
        if self.process.world == 1:
            return value
        import torch.distributed as dist

        box: list[Any] = [value if self.process.is_main else None]
        dist.broadcast_object_list(box, src=0, group=self._decisions)
        answer: T = box[0]
        return answer

    def all(self, value: T) -> list[T]:
        """What each process gives, by rank."""
        if self.process.world == 1:
            return [value]
        import torch.distributed as dist

        boxes: list[Any] = [None] * self.process.world
        dist.all_gather_object(boxes, value, group=self._decisions)
        return boxes

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.process.world > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def close(self) -> None:
        """Leave."""
        if self._owns:
            import torch.distributed as dist

            dist.destroy_process_group()


@contextlib.contextmanager
def joined(text: str, process: Process) -> Iterator[Group]:
    """The group of ``process``, on its device of ``--devices text``; left at the end.

    Raises:
        SpecError: a device is not there, or there are more or fewer than processes.
        TrainingError: the others cannot be reached.
    """
    devices, index = parse_devices(text), process.index
    if index is None:
        check_devices(devices)
        if devices.processes not in (1, process.local_world):
            raise SpecError(f"--devices {text} is {devices.processes} devices for {process.local_world} processes.")
        index = devices.indexes[process.local_rank if devices.processes > 1 else 0]
    try:
        group = Group(process, devices.kind, index)
    except RuntimeError as e:
        raise TrainingError(f"process {process.rank} cannot reach the others: {str(e).splitlines()[0][:160]}") from e
    try:
        yield group
    finally:
        group.close()


def is_of_exchange(error: Exception) -> bool:
    """Whether gloo or NCCL has failed: another process is gone."""
    return any(name in str(error).lower() for name in ("gloo", "nccl"))


def _store(process: Process) -> Any:
    """Where the processes leave their addresses.

    torchrun's agent may keep its store when it starts them anew: those of the dead ones would be found there.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", process.rank, process.world))
    return PrefixStore(f"attempt-{process.restarts}", store)
