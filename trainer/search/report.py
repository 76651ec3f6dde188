"""What a search has found: a table, and a picture of it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.durable import replace_file
from trainer.search.record import Search, State, Trial, shown_value
from trainer.search.space import Dimension, Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PALE = "0.75"
_BAND = 0.4
"""Of the room of a choice, what its trials are spread over."""


def table(search: Search) -> str:
    """Trials, the best first, in columns."""
    names = [each.name for each in search.space.dimensions]
    rows = [["trial", *names, "epochs", "mAP50-95", "state"]]
    for trial in sorted(search.trials, key=_rank):
        values = [shown_value(trial.values[name]) for name in names]
        best = f"{trial.best[1]:.4f}" if trial.best else "-"
        rows.append([str(trial.number), *values, str(trial.epochs), best, trial.state.value])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell if i == last else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def draw(search: Search, path: Path) -> None:
    """A parallel-coordinates picture as a PNG; nothing where no trial has a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    trials = sorted((trial for trial in search.trials if trial.best), key=_rank, reverse=True)
    if not trials:
        return
    figure = parallel_coordinates(search, trials)
    FigureCanvasAgg(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    replace_file(path, picture.getvalue())


def parallel_coordinates(search: Search, trials: Sequence[Trial]) -> Figure:
    """An axis for each setting and one for what is reached, a line for each of the trials; each has a figure."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    reached = [trial.best[1] for trial in trials if trial.best]
    low, high = min(reached), max(reached)
    axes_of: list[_Axis] = [_Axis(each) for each in search.space.dimensions]
    axes_of.append(_Axis(None, low, high if high > low else low + 1e-3))
    figure = Figure(figsize=(max(2.2 * len(axes_of), 6.0), 4.8), layout="constrained")
    axes: Any = figure.subplots()
    colours, scale = colormaps["viridis_r"], Normalize(low, high)
    for trial, figure_reached in zip(trials, reached, strict=True):
        heights = [axis.height(trial) for axis in axes_of]
        best = trial is search.best
        axes.plot(
            range(len(heights)), heights, color=colours(scale(figure_reached)), linewidth=3.2 if best else 1.5,
            linestyle="-" if trial.state is State.DONE else "--",
        )  # fmt: skip
        axes.annotate(f"{trial.number}", (len(heights) - 1, heights[-1]), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize="small", fontweight="bold" if best else "normal")  # fmt: skip
    for place, axis in enumerate(axes_of):
        axes.vlines(place, 0, 1, color=_PALE, zorder=1)
        for height, text in axis.ticks():
            axes.annotate(text, (place, height), xytext=(-5, 0), textcoords="offset points", ha="right", va="center",
                          fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
                          zorder=4)  # fmt: skip
    axes.set_xticks(range(len(axes_of)), [axis.title for axis in axes_of])
    axes.set_xlim(-0.6, len(axes_of) - 0.6)
    axes.set_ylim(-0.05, 1.05)
    axes.set_yticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(ScalarMappable(norm=scale, cmap=colours), ax=axes, label="best mAP50-95", pad=0.02)
    axes.set_title("a line: a trial, with its number; dashed: not to the end; thick: the best", fontsize="medium")
    return figure


class _Axis:
    """One vertical axis; heights go from 0 to 1."""

    def __init__(self, dimension: Dimension | None, low: float = 0.0, high: float = 1.0) -> None:
        """Of a setting, or of the figure that is reached, from ``low`` to ``high``."""
        self._dimension = dimension
        self._choices = dimension is not None and dimension.kind is Kind.CHOICE
        self._log = dimension is not None and dimension.kind is Kind.LOGUNIFORM
        if dimension is not None and not self._choices:
            low, high = (float(value) for value in dimension.values)
        self._low, self._high = low, high

    @property
    def title(self) -> str:
        """What it is of."""
        if self._dimension is None:
            return "mAP50-95"
        return f"{self._dimension.name}\n(log)" if self._log else self._dimension.name

    def height(self, trial: Trial) -> float:
        """Where a trial crosses it."""
        if self._dimension is None:
            assert trial.best
            return (trial.best[1] - self._low) / (self._high - self._low)
        value = trial.values[self._dimension.name]
        if self._choices:
            # Side by side, for the eye to follow each: the golden ratio spreads any numbers.
            aside = (trial.number * 0.618034 % 1 - 0.5) * _BAND / len(self._dimension.values)
            return self._place(self._dimension.values.index(value)) + aside
        return self._share(float(value))

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and texts."""
        if self._dimension is not None and self._choices:
            return [(self._place(i), shown_value(value)) for i, value in enumerate(self._dimension.values)]
        shares = (0.0, 0.25, 0.5, 0.75, 1.0)
        values = [self._low + share * (self._high - self._low) for share in shares]
        if self._log:
            values = [self._low * (self._high / self._low) ** share for share in shares]
        if self._dimension is not None and self._dimension.kind is Kind.RANDINT:
            values = sorted({float(round(value)) for value in values})
        return [(self._share(value), f"{value:.3g}") for value in values]

    def _share(self, value: float) -> float:
        if self._log:
            return math.log(value / self._low) / math.log(self._high / self._low)
        return (value - self._low) / (self._high - self._low)

    def _place(self, index: int) -> float:
        assert self._dimension
        count = len(self._dimension.values)
        return (index + 0.5) / count


def _rank(trial: Trial) -> tuple[bool, float, int]:
    return (not trial.best, -trial.best[1] if trial.best else 0.0, trial.number)
