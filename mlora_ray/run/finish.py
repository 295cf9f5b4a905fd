"""The end of `train`: saved where it was interrupted, else evaluated across and summed up; and its exit code."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlora_ray.display.console import print_json, say
from mlora_ray.display.status_table import print_status, status_json
from mlora_ray.display.summary_table import print_summary
from mlora_ray.errors import MloraError
from mlora_ray.run.cross_evaluation import MAX_CROSS_ROWS, cross_entry, cross_requests, why_not
from mlora_ray.run.session import TrainSession
from mlora_ray.run.summary import build_summary, with_recorded_figures, write_summary
from mlora_ray.run.watch import POLL_S, exit_code
from mlora_ray.store.run_files import read_json
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_SUCCEEDED
from mlora_ray.types.records import JobRecord
from mlora_ray.types.service import RunResult
from mlora_ray.types.status import RunStatus

if TYPE_CHECKING:
    from rich.console import Console

HOST_TIMEOUT_S = 120.0


def save(session: TrainSession, out: Console) -> int:
    """Save what has not ended; answers the exit code."""
    say(out, "interrupted: saving these jobs …")
    status = session.save()
    for warning in status.warnings:
        say(out, f"warning: {warning}")
    say(out, f"saved; go on with: {session.again}")
    return EXIT_INTERRUPTED


def finish(session: TrainSession, status: RunStatus, as_json: bool, out: Console) -> int | None:
    """Cross-evaluate, write summary.json and report.html, print the end; answers the exit code.

    None, and nothing written, when it was interrupted. Where the storage is no path of ours, it says where things are.
    """
    if not session.is_local:
        print_json({"storage": session.storage} | status_json(status)) if as_json else print_status(status, out)
        say(out, f"adapters and metrics are in {session.storage}/<job>; fetch one: mlora-ray export JOB --to DIR")
        return exit_code(status)
    error = status.error if session.service.is_private else ""
    records = session.service.records(session.names)
    recorded = recorded_summary(session.storage, records, session.steps_before)
    cross_eval, note = (None, "") if error else _cross_evaluate(session, records, recorded, out)
    if session.interrupt.is_set:
        return None
    summary = _summary(session, session.service.result(session.names), error, cross_eval)
    summary = with_recorded_figures(recorded, summary) | ({"cross_eval_note": note} if note else {})
    report, why_unwritten = _write(session.storage, summary)
    print_json(summary) if as_json else print_summary(summary, out)
    for line in (note, error, report or why_unwritten):
        if line:
            say(out, line)
    if error or why_unwritten:
        say(out, f"go on with: {session.again}")
    return EXIT_SOME_FAILED if summary["failed"] or error or why_unwritten else EXIT_SUCCEEDED


def recorded_summary(storage: str, records: Sequence[JobRecord], steps_before: int) -> dict[str, Any]:
    """summary.json, where it is of these jobs and nothing was trained since; else empty. Raises StorageError."""
    if sum(r.step for r in records) > steps_before:
        return {}
    recorded = read_json(Path(storage) / "summary.json")
    return recorded if {job["name"] for job in recorded.get("jobs", ())} == {r.spec.name for r in records} else {}


def _cross_evaluate(
    session: TrainSession, records: Sequence[JobRecord], recorded: Mapping[str, Any], out: Console
) -> tuple[dict[str, Any] | None, str]:
    """The matrix, or why there is none. The one that is recorded needs no host."""
    requests = cross_requests(records)
    if why := why_not(requests):
        return None, why
    before = recorded.get("cross_eval")
    if before and before["adapters"] == [r.spec.name for r in requests]:
        return before, ""
    say(out, f"cross-evaluating {len(requests)} adapters on at most {MAX_CROSS_ROWS} rows of each job …")
    try:
        if session.service.is_private:
            _await_host(session)
        losses = session.service.cross_evaluate(requests, MAX_CROSS_ROWS, lambda: session.interrupt.is_set)
    except MloraError as error:
        return None, f"no cross-evaluation: {error}"
    return (cross_entry(requests, losses), "") if losses else (None, "")


def _await_host(session: TrainSession) -> None:
    """Resuming a run whose jobs had all ended, it is over before a host has loaded the base."""
    until_s = time.monotonic() + HOST_TIMEOUT_S
    while not session.interrupt.is_set and time.monotonic() < until_s:
        if session.service.infos() or session.progress().error:
            return
        time.sleep(POLL_S)


def _summary(session: TrainSession, result: RunResult, error: str, cross_eval: dict[str, Any] | None) -> dict[str, Any]:
    is_private = session.service.is_private
    rates = [(at - session.service_s, rate) for at, rate in result.samples if at >= session.service_s]
    bad = [r for r in result.records if r.state is not JobState.SUCCEEDED]
    return build_summary(
        session.storage,
        command=session.request.command,
        device=result.hosts[0].device_type if result.hosts else "",
        base=session.request.specs[0].base.name,
        started_at=session.started.at,
        wall_s=time.monotonic() - session.started.monotonic_s,
        cpu_s=result.usage.cpu_s + time.process_time() if is_private else float("nan"),  # else hosts serve others too
        peak_bytes=result.usage.peak_bytes,
        failed={r.spec.name: why_failed(r, error) if is_private else r.error or str(r.state) for r in bad},
        cross_eval=cross_eval,
        throughput=[{"t_s": at, "tokens_per_s": rate} for at, rate in rates],
        names=session.names,
    )


def why_failed(record: JobRecord, error: str) -> str:
    """A job's error; one that storage or the run's end stopped also says from where it can go on."""
    is_its_own = record.state is JobState.FAILED and not record.is_unsaved
    why = record.error or error or "not finished"
    return (
        why if is_its_own or record.state is JobState.CANCELLED else f"{why}; --resume goes on from step {record.step}"
    )


def _write(storage: str, summary: Mapping[str, Any]) -> tuple[str, str]:
    """Where the report is, or why it could not be written."""
    from mlora_ray.report import write_report

    try:
        write_summary(storage, summary)
        return f"report: {write_report(storage)}", ""
    except (OSError, MloraError) as error:
        return "", f"summary.json and report.html could not be written: {error}"
