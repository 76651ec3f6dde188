"""Steps without saving, with the writer's thread and with writing in line, in turns."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints.report import CheckpointReport, Manner, Row
from benchmarks.checkpoints.training import SmallTraining
from benchmarks.figures import Spread
from benchmarks.machine import OtherLoad, environment
from trainer.checkpoints.file import CheckpointMeta, sidecar, verify, write_checkpoint
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.writer import CheckpointWriter

_WARM_UP_STEPS = 3
_WRITTEN_WITHIN_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointOptions:
    """One run of the benchmark."""

    model: str
    batch: int
    imgsz: int
    every: int
    """Steps from one checkpoint to the next."""
    repeats: int
    folder: Path | None
    """Where to write; None: the folder of temporary files."""


@dataclass(frozen=True, slots=True)
class _Block:
    """``every`` steps with what comes before them."""

    total_s: float
    cost_s: float
    """What the training waited for, and what the steps took longer while the thread wrote."""
    copy_s: float = 0.0
    write_s: float = 0.0
    write_cpu_s: float = 0.0
    """Of the thread that writes."""
    late: bool = False
    """Whether the checkpoint was not written when the next one was due."""


def measure_checkpoints(
    options: CheckpointOptions, argv: Sequence[str], progress: Callable[[str], None]
) -> CheckpointReport:
    """Train in blocks, each in another manner than the one before."""
    training = SmallTraining(options.model, batch=options.batch, imgsz=options.imgsz)
    for _ in range(_WARM_UP_STEPS):
        training.step()
    blocks: dict[Manner, list[_Block]] = {manner: [] for manner in Manner}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="checkpoints-") as folder:
        blocks_of = _Blocks(training, options.every, Path(folder))
        size_bytes = blocks_of.size_bytes()
        others = OtherLoad(os.getpid())
        for turn in range(options.repeats):
            order = list(Manner)
            # What the machine does meanwhile weighs on each of them alike.
            for manner in order[turn % 3 :] + order[: turn % 3]:
                progress(f"turn {turn + 1} of {options.repeats}: {manner.value}")
                blocks[manner].append(blocks_of.run(manner))
        other_cpu_share = others.share()
    return CheckpointReport(
        model=options.model,
        batch=options.batch,
        imgsz=options.imgsz,
        every=options.every,
        repeats=options.repeats,
        checkpoint_bytes=size_bytes,
        rows=tuple(_row(manner, blocks[manner], blocks[Manner.NONE], options.every) for manner in Manner),
        late=sum(block.late for block in blocks[Manner.THREAD]),
        other_cpu_share=other_cpu_share,
        environment=environment(argv),
    )


class _Blocks:
    def __init__(self, training: SmallTraining, every: int, folder: Path) -> None:
        self._training, self._every, self._folder = training, every, folder
        self._writer = CheckpointWriter(folder, Retention(last=1))
        self._step = 0

    def size_bytes(self) -> int:
        """Of a checkpoint; it is written once, so that what a first one costs is not measured."""
        path = write_checkpoint(self._folder, self._training.state(), self._meta())
        return path.stat().st_size

    def run(self, manner: Manner) -> _Block:
        copy_s = write_s = write_cpu_s = 0.0
        start_s = time.perf_counter()
        if manner is not Manner.NONE:
            state, meta = self._training.state(), self._meta()
            copy_s = time.perf_counter() - start_s
            if manner is Manner.THREAD:
                self._writer.submit(state, meta)
            else:
                cpu_s = time.thread_time()
                write_checkpoint(self._folder, state, meta)
                write_s, write_cpu_s = time.perf_counter() - start_s - copy_s, time.thread_time() - cpu_s
            del state
        longer_s = self._steps(self._folder / f"{self._meta().name}.pt" if manner is Manner.THREAD else None)
        total_s = time.perf_counter() - start_s
        late = manner is Manner.THREAD and self._wait_for(self._folder / f"{meta.name}.pt")
        return _Block(total_s, copy_s + write_s + longer_s, copy_s, write_s, write_cpu_s, late)

    def _steps(self, written: Path | None) -> float:
        """Take the block's steps; what those until ``written`` is there took longer than the median of the rest.

        A checkpoint costs a few steps something and the rest nothing: what the machine does in the rest is left out.
        """
        steps_s: list[float] = []
        writing = 0
        for _ in range(self._every):
            start_s = time.perf_counter()
            still_writing = written is not None and not sidecar(written).exists()
            self._training.step()
            steps_s.append(time.perf_counter() - start_s)
            writing += still_writing
            self._step += 1
        usual_s = statistics.median(steps_s[writing:] or steps_s)
        return sum(steps_s[:writing]) - writing * usual_s

    def _wait_for(self, path: Path) -> bool:
        """Whether the checkpoint had yet to be written: the next block begins with a writer that is idle."""
        late = not sidecar(path).exists()
        deadline_s = time.monotonic() + _WRITTEN_WITHIN_S
        while not sidecar(path).exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        verify(path)
        return late

    def _meta(self) -> CheckpointMeta:
        return CheckpointMeta(
            run="benchmark",
            epoch=0,
            step=self._step,
            fitness=None,
            data_hash="",
            model_hash="",
            versions={},
            arguments={},
        )


def _row(manner: Manner, blocks: Sequence[_Block], plain: Sequence[_Block], every: int) -> Row:
    return Row(
        manner=manner,
        step_ms=Spread.of(1e3 * block.total_s / every for block in blocks),
        more=Spread.of(block.total_s / none.total_s - 1 for block, none in zip(blocks, plain, strict=True)),
        cost_ms=Spread.of(1e3 * block.cost_s for block in blocks),
        cost_share=Spread.of(block.cost_s / (block.total_s - block.cost_s) for block in blocks),
        copy_ms=Spread.of(1e3 * block.copy_s for block in blocks),
        write_ms=Spread.of(1e3 * block.write_s for block in blocks),
        write_cpu_ms=Spread.of(1e3 * block.write_cpu_s for block in blocks),
    )
