"""Tables that fit the terminal; tab-separated lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2  # between two columns
MIN_NAME = 8
MIN_NOTE = 12  # a narrower last column says nothing
STYLES = {  # of job states and of host states
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "CANCELLED": "yellow",
    "TRAINING": "cyan",
    "PAUSED": "yellow",
    "alive": "green",
    "draining": "yellow",
    "gone": "dim",
}


class Column(NamedTuple):
    """`rank` 0 is always there; of the others the highest goes first where the terminal is narrow.

    The last column takes what width is left, cut at the end.
    """

    name: str
    rank: int = 0
    is_number: bool = False
    max_width: int = 0  # 0: as wide as its widest cell


def print_table(out: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """`rows` have a cell for each column. Cells that are states are coloured."""
    if out.is_terminal:
        out.print(draw_table(columns, rows, out.width))
        return
    for cells in ([column.name for column in columns], *rows):
        print("\t".join(" ".join(cell.split()) for cell in cells), file=out.file)  # rich would widen the tabs


def draw_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Table:
    """The columns that fit in `width`, at the widths they need."""
    from rich.table import Table
    from rich.text import Text

    widths = _fitted(columns, rows, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for at, column_width in widths.items():
        justify = "right" if columns[at].is_number else "left"
        table.add_column(
            columns[at].name,
            width=column_width,
            justify=justify,  # type: ignore[arg-type]
            no_wrap=True,
            overflow="ellipsis",
        )
    for cells in rows:
        table.add_row(*(Text(" ".join(cells[at].split()), style=STYLES.get(cells[at], "")) for at in widths))
    return table


def _fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """Column index to width, in order; the last column has the rest, and goes where the rest is too little."""
    natural = {
        at: max(len(column.name), *(len(row[at]) for row in rows)) if rows else len(column.name)
        for at, column in enumerate(columns)
    }
    widths = {at: min(need, columns[at].max_width or need) for at, need in natural.items()}
    last = len(columns) - 1

    def used() -> int:
        return sum(w + GAP for at, w in widths.items() if at != last)

    need_last = min(natural[last], MIN_NOTE)
    while used() + need_last > width:
        droppable = [at for at in widths if columns[at].rank and at != last]
        if not droppable:
            break
        del widths[max(droppable, key=lambda at: columns[at].rank)]
    widths[0] = max(min(MIN_NAME, widths[0]), min(widths[0], widths[0] + width - used() - need_last))
    widths[last] = max(0, min(natural[last], width - used()))
    if widths[last] < min(need_last, 4) or not any(row[last] for row in rows):
        del widths[last]
    return widths


def counted(states: Mapping[str, int]) -> str:
    """`3 TRAINING · 1 PAUSED`, in the order given, what is not there left out."""
    return " · ".join(f"{number:,} {state}" for state, number in states.items() if number)


def at_time(at_s: float) -> str:
    """Local date and time of `at_s`, seconds since the Unix epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
