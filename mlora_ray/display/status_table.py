"""The table of `mlora-ray status`, and its JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

from mlora_ray.display.console import say
from mlora_ray.display.numbers import count, show_loss, show_rate, show_seconds
from mlora_ray.display.tables import Column, counted, print_table
from mlora_ray.types import JobState
from mlora_ray.types.status import JobStatus, RunStatus

if TYPE_CHECKING:
    from rich.console import Console


MAX_SHOWN = 40


LAST_SHOWN = (JobState.CANCELLED, JobState.SUCCEEDED)  # what needs a look comes first


JOB_COLUMNS = (
    Column("job", max_width=32),
    Column("state"),
    Column("steps", is_number=True),
    Column("loss", rank=1, is_number=True),
    Column("tokens/s", rank=3, is_number=True),
    Column("host", rank=2, max_width=16),
    Column("note"),
)


def status_json(status: RunStatus) -> dict[str, Any]:
    return dataclasses.asdict(status) | {"share_done": status.share_done, "eta_s": status.eta_s}


def print_status(status: RunStatus, out: Console) -> None:
    jobs = sorted(status.jobs, key=lambda job: (job.state in LAST_SHOWN, job.state is JobState.SUCCEEDED))
    if not jobs:
        say(out, "no jobs")
    else:
        shown = jobs[:MAX_SHOWN]
        print_table(out, JOB_COLUMNS, [job_cells(job) for job in shown])
        if len(shown) < len(jobs):
            say(out, f"… and {count(len(jobs) - len(shown), 'more job')}: name them, or --json")
        say(out, _whole(status))
    for warning in status.warnings:
        say(out, f"warning: {warning}")
    if status.error:
        say(out, status.error)


def job_cells(job: JobStatus) -> tuple[str, ...]:
    """One row of `JOB_COLUMNS`."""
    steps = f"{job.step:,}/{job.total_steps:,}"
    rate = show_rate(job.tokens_per_s) if job.state is JobState.TRAINING and job.tokens_per_s else ""
    loss = show_loss(job.loss) if job.step else ""
    return (job.name, str(job.state), steps, loss, rate, job.host, job.error or job.note)


def _whole(status: RunStatus) -> str:
    counts = Counter(str(job.state) for job in status.jobs)
    parts = [counted({str(state): counts[str(state)] for state in JobState}), f"{status.share_done:.1%}"]
    if status.tokens_per_s:
        parts.append(f"{show_rate(status.tokens_per_s)} tokens/s")
    if status.tokens_per_s and status.share_done < 1:
        parts.append(f"{show_seconds(status.eta_s)} left")
    return " · ".join(parts)
