"""Progress of a run: a live view on a terminal, plain lines where there is none.

    with ProgressView() as view:
        view.update(RunStatus(...))    # as often as you like; it draws at most eight times a second

All time comes in as `RunStatus.elapsed_s`; the view holds no state but what it has already printed.
"""

from __future__ import annotations

import importlib.util
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlora_ray.display.numbers import show_bytes, show_loss, show_rate, show_seconds
from mlora_ray.types import JobState
from mlora_ray.types.status import JobStatus, RunStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_EVERY_S = 5.0
REDRAWS_PER_S = 8.0
HEAD_LINES = 3  # the whole on top, and the cursor's own line
NAMED_PHASES = ("evaluating", "saving")  # stand where the rate is while nothing trains
STATE_WIDTH = 9
MIN_NOTE_WIDTH = 11  # "loss 1.2345"
WIDE_COLUMNS = 76  # narrower terminals go without the jobs' bars
STYLES = {JobState.SUCCEEDED: "green", JobState.FAILED: "bold red", JobState.CANCELLED: "yellow"}
SHOWN_FIRST = (JobState.TRAINING, JobState.MIGRATING, JobState.FAILED, JobState.PLACED, JobState.PAUSED)


class ProgressView:
    """Draws `RunStatus` values. A context manager; leaves one line with the whole behind."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._last: RunStatus | None = None
        self._printed_at_s = float("-inf")
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        # In a notebook rich draws in place through ipywidgets; without them there are plain lines, as in a file.
        is_notebook = self._console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        if self._console.is_terminal or is_notebook:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None
            self._printed_at_s = float("-inf")
        if self._last and self._last.elapsed_s > self._printed_at_s:
            self._print(plain_line(self._last))

    def update(self, status: RunStatus) -> None:
        """Show `status`. A job that ended since the last call gets its line at once, above the live view."""
        self._last = status
        for job in status.jobs:
            if job.state.is_final and job.name not in self._ended:
                self._ended.add(job.name)
                if not self._live or job.state is JobState.FAILED:
                    self._print(end_line(job), STYLES[job.state])
        due_s = 1 / REDRAWS_PER_S if self._live else PLAIN_EVERY_S
        if status.elapsed_s - self._printed_at_s < due_s:
            return
        self._printed_at_s = status.elapsed_s
        if self._live:
            self._live.update(draw(status, self._console.width, self._console.height), refresh=True)
        else:
            self._print(plain_line(status))

    def _print(self, line: str, style: str | None = None) -> None:
        self._console.print(Text(line, style=style or ""), soft_wrap=True)


def plain_line(status: RunStatus) -> str:
    """The whole in one line."""
    done = f"{status.done_tokens:,}/{status.total_tokens:,} tokens" if status.total_tokens else ""
    pace = status.phase if status.phase in NAMED_PHASES else f"{show_rate(status.tokens_per_s)} tokens/s"
    parts = [f"{status.share_done:6.1%}", done, pace]
    left = f", {show_seconds(status.eta_s)} left" if _runs(status) else ""
    parts.append(f"{show_seconds(status.elapsed_s)} gone{left}")
    parts += [_memory(status), status.counts()]
    return " · ".join(part for part in parts if part)


def end_line(job: JobStatus) -> str:
    """One line for a job that ended."""
    at = f"step {job.step:,}/{job.total_steps:,}"
    if job.state is JobState.FAILED:
        return f"failed {job.name} at {at}: {' '.join(job.error.split()) or 'no reason given'}"
    word = "done" if job.state is JobState.SUCCEEDED else "cancelled"
    return f"{word} {job.name}: {at} · loss {show_loss(job.loss)} · {job.num_tokens:,} tokens"


def draw(status: RunStatus, width: int, height: int) -> RenderableType:
    """The live view in `width` columns and at most `height` lines."""
    shown = choose(status.jobs, max(1, height - HEAD_LINES))
    parts: list[RenderableType] = [_head(status, width), _jobs(shown, width)]
    if len(shown) < len(status.jobs):
        parts.append(Text(_hidden(status.jobs, shown), style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def choose(jobs: tuple[JobStatus, ...], num_lines: int) -> tuple[JobStatus, ...]:
    """The jobs that get a line: all if they fit, else the running first, with one line kept for the rest."""
    if len(jobs) <= num_lines:
        return jobs
    ranks = {state: at for at, state in enumerate(SHOWN_FIRST)}

    def rank(job: JobStatus) -> tuple[int, bool]:
        return ranks.get(job.state, len(ranks) + (job.state is not JobState.QUEUED)), not job.is_resident

    return tuple(sorted(jobs, key=rank)[: max(0, num_lines - 1)])


def _hidden(jobs: tuple[JobStatus, ...], shown: tuple[JobStatus, ...]) -> str:
    names = {job.name for job in shown}
    rest = RunStatus(jobs=tuple(job for job in jobs if job.name not in names))
    counts = rest.counts().replace("training", "more training").replace("waiting", "more waiting")
    return "… " + counts.replace(" · ", ", ")


def _runs(status: RunStatus) -> bool:
    return status.share_done < 1


def _memory(status: RunStatus) -> str:
    if not status.memory_bytes:
        return ""
    limit = f" of {show_bytes(status.memory_limit_bytes)}" if status.memory_limit_bytes else ""
    return f"memory {show_bytes(status.memory_bytes)}{limit}"


def _head(status: RunStatus, width: int) -> RenderableType:
    top = Table.grid(padding=(0, 1))
    top.add_column(no_wrap=True)
    top.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=1, completed=status.share_done, width=max(6, min(30, width // 3)))
    eta = f"{show_seconds(status.eta_s)} left" if _runs(status) else f"{show_seconds(status.elapsed_s)} gone"
    pace = status.phase if status.phase in NAMED_PHASES else f"{show_rate(status.tokens_per_s)} tokens/s"
    facts = Text(f"{status.share_done:.1%}", style="bold", no_wrap=True, overflow="ellipsis")
    facts.append(f" · {pace} · {eta}", style="not bold")
    top.add_row(bar, facts)
    below = Text(style="dim", no_wrap=True, overflow="ellipsis")
    if status.memory_bytes:
        is_tight = 0 < status.memory_limit_bytes * 0.95 < status.memory_bytes
        below.append(_memory(status), style="not dim bold yellow" if is_tight else "")
        below.append(" · ")
    below.append(status.counts() + (f" · {status.token_budget:,} tokens a row" if status.token_budget else ""))
    return Group(top, below)


def _jobs(jobs: tuple[JobStatus, ...], width: int) -> Table:
    """Every width is set here: left to itself, rich shrinks names and bars to make room for a long error."""
    name_width = min(max((cell_len(job.name) for job in jobs), default=1), max(10, width // 4))
    bar_width = max(10, min(20, width // 6)) if width >= WIDE_COLUMNS else 0
    steps_width = max((len(_steps(job)) for job in jobs), default=1)
    used = sum(column + 2 for column in (name_width, bar_width, STATE_WIDTH, steps_width) if column)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=name_width, no_wrap=True, overflow="ellipsis")
    if bar_width:
        table.add_column(width=bar_width)
    table.add_column(width=STATE_WIDTH, no_wrap=True)
    table.add_column(width=steps_width, no_wrap=True, justify="right")
    if width - used >= MIN_NOTE_WIDTH:
        table.add_column(width=width - used, no_wrap=True, overflow="ellipsis")
    for job in jobs:
        cells: list[RenderableType] = [Text(job.name), _state(job), Text(_steps(job)), _note(job)]
        if bar_width:
            cells.insert(1, ProgressBar(total=max(1, job.total_steps), completed=job.step))
        table.add_row(*cells[: len(table.columns)])
    return table


def _steps(job: JobStatus) -> str:
    return f"{job.step:,}/{job.total_steps:,}"


def _state(job: JobStatus) -> Text:
    if job.state is JobState.TRAINING and not job.is_resident:
        return Text("paged out", style="dim")
    style = STYLES.get(job.state, "cyan" if job.state is JobState.TRAINING else "dim")
    return Text("done" if job.state is JobState.SUCCEEDED else job.state.lower(), style=style)


def _note(job: JobStatus) -> Text:
    if job.error:
        return Text(" ".join(job.error.split()), style="red")
    if job.note:
        return Text(job.note, style="dim")
    if job.step == 0:
        return Text("")
    rate = f"  {show_rate(job.tokens_per_s):>7} tok/s" if job.state is JobState.TRAINING and job.tokens_per_s else ""
    return Text(f"loss {show_loss(job.loss):<6}{rate}")
