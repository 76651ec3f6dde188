"""Plain-text tables: what is printed is what a report quotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first reads from the left, the others are numbers and end flush."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def key_values(rows: Mapping[str, str]) -> str:
    """One line per key."""
    width = max(map(len, rows))
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in rows.items())
