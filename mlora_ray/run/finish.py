"""The end of `mlora-ray train`: evaluate across, sum up, write summary.json and report.html."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from mlora_ray.errors import StorageError
from mlora_ray.run import cross_evaluation
from mlora_ray.run.session import Run
from mlora_ray.types import JobState
from mlora_ray.types.service import RunResult
from mlora_ray.types.status import RunStatus

if TYPE_CHECKING:
    from mlora_ray.types.records import JobRecord

EXIT_SUCCEEDED, EXIT_SOME_FAILED = 0, 3
POLL_S = 0.4
CALL_TIMEOUT_S = 120.0


def sum_up(run: Run, status: RunStatus) -> int | None:
    """Cross-evaluate, write summary.json and report.html, print the end; answers the exit code.

    None, and nothing written, when it was interrupted.
    """
    import ray

    from mlora_ray.display.summary_table import print_summary
    from mlora_ray.run.summary import with_recorded_figures

    result: RunResult = ray.get(run.placement.result.remote(), timeout=CALL_TIMEOUT_S)
    cross_eval, note = (None, "") if status.error else _cross_evaluate(run, result)
    if run.interrupt.is_set:
        return None
    result = ray.get(run.placement.result.remote(), timeout=CALL_TIMEOUT_S)
    summary = _summary(run, result, status, cross_eval)
    if note:
        summary["cross_eval_note"] = note
    if not sum(r.step for r in result.records) > run.steps_before:
        summary = with_recorded_figures(str(run.directory.root), summary)
    unwritten = _write_summary(run, summary)
    if run.options.is_json:
        print(json.dumps(summary))
    else:
        print_summary(summary, run.console)
    for line in [note, status.error, unwritten]:
        if line:
            run.say(line)
    if status.error or unwritten:
        run.say(f"go on with: {run.resume_command}")
    return EXIT_SOME_FAILED if summary["failed"] or status.error or unwritten else EXIT_SUCCEEDED


def _write_summary(run: Run, summary: dict[str, Any]) -> str:
    """Answers why it could not be written; else empty."""
    from mlora_ray.report import write_report
    from mlora_ray.run.summary import write_summary

    try:
        write_summary(str(run.directory.root), summary)
        report = write_report(str(run.directory.root))
    except (OSError, StorageError) as error:
        return f"summary.json and report.html could not be written: {error}"
    run.say(f"report: {report}")
    return ""


def _cross_evaluate(run: Run, result: RunResult) -> tuple[dict[str, Any] | None, str]:
    """The matrix, or why there is none."""
    import ray
    from ray.exceptions import RayError

    requests = cross_evaluation.cross_requests(result.records)
    if why := cross_evaluation.why_not(requests):
        return None, why
    run.console.print(
        f"cross-evaluating {len(requests)} adapters on at most {cross_evaluation.MAX_CROSS_ROWS} rows of each job …"
    )
    _await_host(run)
    asked = run.placement.cross_evaluate.remote(requests, cross_evaluation.MAX_CROSS_ROWS)
    while not run.interrupt.is_set:
        ready, _ = ray.wait([asked], timeout=POLL_S)
        if ready:
            try:
                return cross_evaluation.cross_entry(requests, ray.get(asked, timeout=CALL_TIMEOUT_S)), ""
            except RayError as error:
                return None, f"no cross-evaluation: {str(error).strip().splitlines()[-1]}"
    return None, ""


def _await_host(run: Run) -> None:
    """Resuming a run whose jobs had all ended, it is over before a host has loaded the base."""
    import ray

    waits_until_s = time.monotonic() + CALL_TIMEOUT_S
    while not run.interrupt.is_set and time.monotonic() < waits_until_s:
        status: RunStatus = ray.get(run.placement.status.remote(), timeout=CALL_TIMEOUT_S)
        if status.error or ray.get(run.placement.infos.remote(), timeout=CALL_TIMEOUT_S):
            return
        time.sleep(POLL_S)


def _summary(run: Run, result: RunResult, status: RunStatus, cross_eval: dict[str, Any] | None) -> dict[str, Any]:
    from mlora_ray.run.summary import build_summary

    base = run.specs[0].base
    return build_summary(
        str(run.directory.root),
        command=run.options.command,
        device=result.hosts[0].device_type if result.hosts else "",
        base=base.name,
        started_at=run.started_at,
        wall_s=time.monotonic() - run.started_s,
        cpu_s=result.usage.cpu_s + time.process_time(),
        peak_bytes=result.usage.peak_bytes,
        failed={r.spec.name: why_failed(r, status.error) for r in result.records if r.state is not JobState.SUCCEEDED},
        cross_eval=cross_eval,
        throughput=[{"t_s": t, "tokens_per_s": rate} for t, rate in result.samples],
        order=[r.spec.name for r in result.records],
    )


def why_failed(record: JobRecord, error: str) -> str:
    """A job's error; one that storage or the run's end stopped also says from where it can go on."""
    is_its_own = record.state is JobState.FAILED and not record.is_unsaved
    why = record.error or error or "not finished"
    return (
        why if is_its_own or record.state is JobState.CANCELLED else f"{why}; --resume goes on from step {record.step}"
    )
