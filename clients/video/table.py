"""What the streams are doing: a live table on a terminal, plain lines elsewhere, and a summary at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from clients.video.accounts import AccountView
from clients.video.reader import SourceState, SourceStatus
from clients.video.runner import StreamRunner

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

HEADINGS = ("source", "state", "captured", "answered", "dropped", "failed", "FPS", "p50 ms", "p95 ms", "p99 ms")
PLAIN_EVERY_S = 10.0
REFRESH_PER_S = 4
TOTAL = "total"
_TEXT_COLUMNS = 2
_LEAST_TEXT = 9


class Display(Protocol):
    """Shows a run while it goes on."""

    def say(self, line: str) -> None:
        """Show a line that stays; from any thread."""

    def show(self, runner: StreamRunner) -> None:
        """Show how things stand; called several times a second."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""


def display_on(stream: TextIO) -> Display:
    """A live table where ``stream`` is a terminal and ``rich`` is installed, else plain lines."""
    if stream.isatty():
        try:
            return LiveTable(stream)
        except ImportError:
            print("no live table without rich: pip install 'yolo-triton[video]'", file=sys.stderr)
    return PlainLines(stream)


class PlainLines:
    """A line for all streams every PLAIN_EVERY_S seconds."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self._stream = stream
        self._shown_s = time.monotonic()

    def say(self, line: str) -> None:
        """Write a line."""
        print(line, file=self._stream, flush=True)

    def show(self, runner: StreamRunner) -> None:
        """Write a line, if it is time."""
        if time.monotonic() - self._shown_s < PLAIN_EVERY_S:
            return
        self._shown_s = time.monotonic()
        total = AccountView.total(runner.views())
        playing = sum(status.state is SourceState.PLAYING for status in runner.statuses())
        cells = cells_of(TOTAL, f"{playing} of {len(runner.sources)} playing", total, total.fps)
        self.say(", ".join(f"{heading} {cell}" for heading, cell in zip(HEADINGS[1:], cells[1:], strict=True)))

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""


class LiveTable:
    """A table that is drawn again several times a second; lines that stay go above it."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on ``stream``; raises ImportError without rich."""
        from rich.console import Console
        from rich.live import Live

        self._console: Console = Console(file=stream)
        # Standard output may be where results go.
        self._live: Live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def say(self, line: str) -> None:
        """Write a line above the table."""
        self._console.print(line, markup=False, highlight=False)

    def show(self, runner: StreamRunner) -> None:
        """Draw the table."""
        views = runner.views()
        rows = [
            cells_of(source.name, status.reason or status.state.value, view, view.fps)
            for source, status, view in zip(runner.sources, runner.statuses(), views, strict=True)
        ]
        total = AccountView.total(views)
        # First, because what does not fit a terminal is cut off below.
        self._live.update(self._table([cells_of(TOTAL, "", total, total.fps), *rows]), refresh=True)

    def _table(self, rows: Sequence[Sequence[str]]) -> Table:
        from rich.table import Table
        from rich.text import Text

        # Without lines, and names cut off before numbers, so that it fits 80 columns.
        table = Table(box=None, padding=(0, 1, 0, 0))
        numbers = sum(len(heading) + 1 for heading in HEADINGS[_TEXT_COLUMNS:])
        text = max(2 * _LEAST_TEXT, self._console.width - numbers - _TEXT_COLUMNS)
        for heading, most in zip(HEADINGS, (text - text // 2, text // 2), strict=False):
            table.add_column(heading, no_wrap=True, max_width=most)
        for heading in HEADINGS[_TEXT_COLUMNS:]:
            table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
        for row in rows:
            # As Text: a name is no markup.
            table.add_row(*(Text(cell) for cell in row))
        return table

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the table away."""
        self._live.stop()


def summary(runner: StreamRunner) -> str:
    """What became of every frame, a line per stream and one for all; FPS over the whole run."""
    views = runner.views()
    total = AccountView.total(views)
    rows: list[tuple[str, ...]] = [HEADINGS]
    for source, status, view in zip(runner.sources, runner.statuses(), views, strict=True):
        rows.append(cells_of(source.name, _ended(status), view, _overall_fps(view, runner)))
    rows.append(cells_of(TOTAL, "", total, _overall_fps(total, runner)))
    widths = [max(len(row[index]) for row in rows) for index in range(len(HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if index < _TEXT_COLUMNS else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    parts = f"{total.answered} answered + {total.dropped} dropped + {total.failed} failed"
    lines.append(f"{total.captured} captured = {parts} in {runner.seconds:.1f} s")
    return "\n".join(lines)


def cells_of(name: str, state: str, view: AccountView, fps: float) -> tuple[str, ...]:
    """A row of the table, under HEADINGS."""
    percentiles = [view.latencies.percentile_s(percent) for percent in (50, 95, 99)]
    return (
        name,
        state,
        *(str(count) for count in (view.captured, view.answered, view.dropped, view.failed)),
        f"{fps:.1f}",
        *("-" if seconds is None else f"{1000 * seconds:.0f}" for seconds in percentiles),
    )


def _overall_fps(view: AccountView, runner: StreamRunner) -> float:
    return view.answered / runner.seconds if runner.seconds > 0 else 0.0


def _ended(status: SourceStatus) -> str:
    if status.broken:
        return "broken"
    return f"opened {status.connections}x" if status.connections else "never opened"
