"""What can be seen of a training: results.csv, steps.csv, TensorBoard's events where it is installed, curves.png."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.durable import replace_file

Row = Mapping[str, float]


class Progress:
    """Writes a run's figures; on the main process alone."""

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        """Write into the run's folder."""
        self._run = run
        self._say = say
        self._failed = False
        self._steps = run / "steps.csv"
        self._events = _tensorboard(run / "tensorboard")

    def go_on_from(self, step: int, rows: Sequence[Row]) -> None:
        """Forget what an interrupted part has written of later steps and epochs."""
        if self._steps.exists():
            header, *lines = self._steps.read_text(encoding="utf-8").splitlines() or [""]
            # The last line of a part that was killed may be cut short.
            kept = [line for line in lines if line.count(",") == header.count(",") and int(line.split(",")[0]) <= step]
            replace_file(self._steps, "".join(f"{line}\n" for line in (header, *kept) if line).encode())
        if rows:
            self._write_rows(rows)

    def step(self, step: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Add a line to steps.csv; ``step`` counts from 1."""
        values = {"step": step, **losses, "lr": learning_rate}
        with self._tolerant():
            text = "" if self._steps.exists() and self._steps.stat().st_size else ",".join(values) + "\n"
            with self._steps.open("a", encoding="utf-8") as file:
                file.write(text + ",".join(f"{value:.9g}" for value in values.values()) + "\n")

    def epoch(self, rows: Sequence[Row]) -> None:
        """Write all rows anew, the last of which has just come."""
        with self._tolerant():
            self._write_rows(rows)
            if self._events is not None:
                for name, value in rows[-1].items():
                    self._events.add_scalar(name, value, int(rows[-1]["epoch"]))
                self._events.flush()

    def close(self, rows: Sequence[Row]) -> None:
        """Draw the curves."""
        with self._tolerant():
            if rows:
                draw_curves(self._run / "curves.png", rows)
            if self._events is not None:
                self._events.close()

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        """A full disk costs figures, not the training."""
        try:
            yield
        except OSError as e:
            if not self._failed:
                self._say(f"warning: figures of the training are not written: {e.filename or ''} {e.strerror or e}")
            self._failed = True

    def _write_rows(self, rows: Sequence[Row]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
        replace_file(self._run / "results.csv", text.getvalue().encode())


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Losses, accuracy and learning rate by epoch as a PNG."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = (
        ("training loss", [name for name in rows[0] if name.startswith("train/")]),
        ("validation loss", _names(rows, "val/")),
        ("accuracy", _names(rows, "metrics/")),
        ("learning rate", [name for name in rows[0] if name.startswith("lr/")]),
    )
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name.split("/")[1])
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if names:
            axes.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    replace_file(path, picture.getvalue())


def _names(rows: Sequence[Row], prefix: str) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row if name.startswith(prefix)))


def _tensorboard(folder: Path) -> Any:
    """Its writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
