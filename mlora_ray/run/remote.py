"""`train --address`: the jobs of a file on a running cluster, watched to their end and summed up.

This process may be lost at any moment: the jobs go on, and the same command watches them again. Told to stop (Ctrl-C,
SIGTERM as `ray job stop` sends it) it saves its own jobs and leaves them PAUSED; the same command goes on with them.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlora_ray.actors.connect import on_cluster
from mlora_ray.config.job_file import read_job_file
from mlora_ray.display.console import print_json, say
from mlora_ray.display.numbers import count
from mlora_ray.display.status_table import print_status, status_json
from mlora_ray.errors import MloraError
from mlora_ray.run import cross_evaluation
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.run.new_service import Target
from mlora_ray.run.submit import submit_jobs
from mlora_ray.run.watch import exit_code, watch
from mlora_ray.types import JobSpec, JobState
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED
from mlora_ray.types.service import RunResult
from mlora_ray.types.status import RunStatus

if TYPE_CHECKING:
    from rich.console import Console

    from mlora_ray.actors.client import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The jobs of one command on a service."""

    service: Service
    storage: str
    specs: Sequence[JobSpec]
    command: str
    started_at: str  # ISO 8601
    started_s: float  # monotonic
    service_s: float  # the service's own clock then: its throughput curve is by that

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.specs]

    @property
    def is_local(self) -> bool:
        """The storage is a path, so that its files can be read and written here."""
        return "://" not in self.storage


def train_on_cluster(job_path: str, target: Target, address: str, command: str, as_json: bool, out: Console) -> int:
    """Answers the exit code: 0, 3 (some jobs failed) or 130 (interrupted, saved). Raises InputError before training."""
    started_s, started_at = time.monotonic(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    job_file = read_job_file(job_path)
    with on_cluster(address):
        service, specs = submit_jobs(job_file, target, command, out)
        with Interrupt() as interrupt:
            run = Watched(
                service=service,
                storage=service.settings().storage,
                specs=specs,
                command=command,
                started_at=started_at,
                started_s=started_s,
                service_s=service.status([specs[0].name]).elapsed_s,
            )
            say(out, f"{count(len(specs), 'job')} on service {service.name!r}, to {run.storage}")
            status = watch(service, run.names, interrupt, out)
            if any(not job.state.is_final for job in status.jobs):
                return _save(run, out)
            return _sum_up(run, status, interrupt, as_json, out)


def _save(run: Watched, out: Console) -> int:
    say(out, "interrupted: saving these jobs …")
    status = run.service.save_and_pause(run.names)
    for warning in status.warnings:
        say(out, f"warning: {warning}")
    say(out, f"saved; go on with: {run.command}")
    return EXIT_INTERRUPTED


def _sum_up(run: Watched, status: RunStatus, interrupt: Interrupt, as_json: bool, out: Console) -> int:
    """Local storage has everything for the embedded run's summary and report; elsewhere say where things are."""
    from mlora_ray.display.summary_table import print_summary
    from mlora_ray.report import write_report
    from mlora_ray.run.summary import write_summary

    result = run.service.result(run.names)
    cross_eval, note = _cross_evaluate(run, result, interrupt, out)
    if not run.is_local:
        print_json({"storage": run.storage} | status_json(status)) if as_json else print_status(status, out)
        say(out, f"adapters and metrics are in {run.storage}/<job>; fetch one: mlora-ray export JOB --to DIR")
        return exit_code(status)
    summary = _summary(run, result, cross_eval, note)
    try:
        write_summary(run.storage, summary)
        said = f"report: {write_report(run.storage)}"
    except (OSError, MloraError) as error:
        said = f"summary.json and report.html could not be written: {error}"
    if as_json:
        print_json(summary)
    else:
        print_summary(summary, out)
    for line in (note, said):
        if line:
            say(out, line)
    return exit_code(status)


def _summary(run: Watched, result: RunResult, cross_eval: dict[str, Any] | None, note: str) -> dict[str, Any]:
    from mlora_ray.run.summary import build_summary

    rates = [(at - run.service_s, rate) for at, rate in result.samples if at >= run.service_s]
    summary = build_summary(
        run.storage,
        command=run.command,
        device=result.hosts[0].device_type if result.hosts else "",
        base=run.specs[0].base.name,
        started_at=run.started_at,
        wall_s=time.monotonic() - run.started_s,
        cpu_s=float("nan"),  # hosts serve others too
        peak_bytes=result.usage.peak_bytes,
        failed={r.spec.name: r.error or str(r.state) for r in result.records if r.state is not JobState.SUCCEEDED},
        cross_eval=cross_eval,
        throughput=[{"t_s": at, "tokens_per_s": rate} for at, rate in rates],
        order=run.names,
        is_of_order_only=True,
    )
    return summary | ({"cross_eval_note": note} if note else {})


def _cross_evaluate(
    run: Watched, result: RunResult, interrupt: Interrupt, out: Console
) -> tuple[dict[str, Any] | None, str]:
    """The matrix, or why there is none."""
    requests = cross_evaluation.cross_requests(result.records)
    if why := cross_evaluation.why_not(requests):
        return None, why
    if not run.is_local or interrupt.is_set:
        return None, ""
    say(
        out,
        f"cross-evaluating {len(requests)} adapters on at most {cross_evaluation.MAX_CROSS_ROWS} rows of each job …",
    )
    try:
        losses = run.service.cross_evaluate(requests, cross_evaluation.MAX_CROSS_ROWS, lambda: interrupt.is_set)
        return (
            (cross_evaluation.cross_entry(requests, losses), "")
            if losses
            else (None, "no cross-evaluation: interrupted")
        )
    except MloraError as error:
        return None, f"no cross-evaluation: {error}"
