"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlora_ray.display.numbers import count, show_bytes, show_loss, show_rate, show_seconds
from mlora_ray.types import JobState

if TYPE_CHECKING:
    from rich.console import Console


MAX_PRINTED_JOBS = 40


DROPPED_FIRST = ("seconds", "tokens", "steps", "eval before", "sha256")  # where the terminal is narrow


COLUMNS = ("job", "state", "steps", "tokens", "train loss", "eval before", "eval after", "seconds", "sha256")


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the end of `train`: a table on a terminal, plain tab-separated lines where there is none."""
    from rich.console import Console

    console = console or Console()
    jobs = sorted(summary["jobs"], key=lambda job: job["state"] == JobState.SUCCEEDED)  # what needs a look comes first
    shown = jobs[:MAX_PRINTED_JOBS]
    if console.is_terminal:
        console.print(_table(shown, console.width))
    else:
        for cells in (COLUMNS, *(_cells(job) for job in shown)):
            _plain(console, "\t".join(cells))
    if len(jobs) > len(shown):
        _plain(console, f"… and {count(len(jobs) - len(shown), 'more job')} in summary.json")
    dropped = [job for job in summary["jobs"] if job.get("dropped_rows")]
    for job in dropped[:MAX_PRINTED_JOBS]:
        _plain(console, f"{job['name']}: {count(job['dropped_rows'], 'row')} dropped, no target within max_length")
    for held in summary["failed"]:
        _plain(console, f"failed {held['name']}: {held['error']}", style="red")
    _plain(console, _last_line(summary))


def _cells(job: Mapping[str, Any]) -> tuple[str, ...]:
    losses = (show_loss(job[field]) for field in ("train_loss", "base_eval_loss", "eval_loss"))
    numbers = (f"{job['steps']:,}", f"{job['tokens']:,}", *losses, f"{job['seconds'] or 0:.1f}")
    return (job["name"], job["state"], *numbers, job["weights_sha256"][:12])


def _table(jobs: Sequence[Mapping[str, Any]], width: int) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = [_cells(job) for job in jobs]
    kept = _fitting(lines, width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at in kept:
        table.add_column(COLUMNS[at], justify="right" if 2 <= at <= 7 else "left", no_wrap=True, overflow="ellipsis")
    colour = {JobState.SUCCEEDED: "green", JobState.FAILED: "red"}
    for line in lines:
        table.add_row(
            *(Text(line[at], style=colour.get(JobState(line[1]), "yellow") if at == 1 else "") for at in kept)
        )
    return table


def _fitting(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indices of the columns that fit in `width`, three characters of space to each."""
    widths = [max(len(line[at]) for line in (COLUMNS, *lines)) + 3 for at in range(len(COLUMNS))]
    kept = list(range(len(COLUMNS)))
    for name in DROPPED_FIRST:
        if sum(widths[at] for at in kept) > width:
            kept.remove(COLUMNS.index(name))
    return kept


def _last_line(summary: Mapping[str, Any]) -> str:
    parts = [f"{len(summary['succeeded'])} of {count(summary['num_jobs'], 'job')} succeeded"]
    if summary["failed"]:
        parts.append(f"{len(summary['failed'])} failed")
    parts += [f"{summary['tokens']:,} tokens", f"{show_rate(summary['tokens_per_s'])} tokens/s"]
    parts += [f"{show_seconds(summary['wall_s'])} wall", f"{show_seconds(summary['cpu_s'])} CPU"]
    return " · ".join([*parts, f"peak {show_bytes(summary['peak_bytes'] or 0)}"])


def _plain(console: Console, line: str, style: str | None = None) -> None:
    if console.is_terminal:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    else:
        print(line, file=console.file)  # rich would turn each tab into spaces
