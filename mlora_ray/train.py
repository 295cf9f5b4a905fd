"""The driver behind `mlora-ray train`: check, start the cluster, watch, evaluate across, sum up.

The work is done by the actors; this process may be killed at any moment and the directory stays resumable.
"""

from __future__ import annotations

import datetime
import json
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlora_ray import cluster, cross
from mlora_ray.check import prepare
from mlora_ray.config import read_job_file
from mlora_ray.errors import MloraError, StorageError
from mlora_ray.interrupt import EXIT_CODE as EXIT_INTERRUPTED
from mlora_ray.interrupt import Interrupt
from mlora_ray.policies.contract import load_policy
from mlora_ray.progress import ProgressView
from mlora_ray.resumption import as_before
from mlora_ray.run_directory import RunDirectory
from mlora_ray.run_facts import PlacementSettings, RunResult
from mlora_ray.shapes import state_bytes
from mlora_ray.train_options import TrainOptions, choose_device, choose_threads, mistake
from mlora_ray.types import BaseSpec, HostSettings, JobSpec, JobState, RunStatus

if TYPE_CHECKING:
    from rich.console import Console

EXIT_SUCCEEDED, EXIT_SOME_FAILED = 0, 3
POLL_S = 0.4
CALL_TIMEOUT_S = 120.0
BEGIN_TIMEOUT_S = 600.0  # it may wait for a killed run's actors, and reads every bundle on resume
SAVE_TIMEOUT_S = 900.0


@dataclass(slots=True)
class Run:
    """What the driver holds while the actors work."""

    options: TrainOptions
    directory: RunDirectory
    specs: list[JobSpec]
    console: Console
    interrupt: Interrupt
    placement: Any
    started_s: float
    started_at: str


def train(options: TrainOptions, console: Console) -> int:
    """Train every job of the job file; answers the exit code. Raises InputError before any training."""
    started_s = time.monotonic()
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    job_file = read_job_file(options.job_file)
    _check_policy(options.policy)
    directory = RunDirectory(options.out)
    directory.open(is_resume=options.is_resume, is_overwrite=options.is_overwrite)
    try:
        device = choose_device(options.device)
        specs = prepare(job_file, str(directory.data))
        if options.is_overwrite:
            directory.empty()
        is_resumed = directory.holds(specs, options.job_file)
        if is_resumed:
            options = as_before(options, directory)
            device = choose_device(options.device)
    except BaseException:
        directory.forget()
        raise
    try:
        hosts = host_settings(options, directory, specs[0].base, device)
        with _cluster(options, directory, sum(h.threads for h in hosts)), Interrupt() as interrupt:
            placement = _start(options, directory, hosts)
            run = Run(options, directory, specs, console, interrupt, placement, started_s, started_at)
            return _run(run, is_resumed)
    finally:
        directory.close()


def host_settings(
    options: TrainOptions, directory: RunDirectory, base: BaseSpec, device: str
) -> tuple[HostSettings, ...]:
    """One host for each device: the CPU is one."""
    import torch

    num_hosts = torch.cuda.device_count() if device == "cuda" and not options.address else 1
    return tuple(
        HostSettings(
            id=f"{device}-{i}",
            base=base,
            bundle_root=str(directory.bundles),
            page_dir=str(directory.pages / f"{device}-{i}"),
            device=device,
            threads=choose_threads(options.threads, num_hosts),
            memory_limit_bytes=options.memory_limit_bytes,
            adapter_memory_bytes=options.adapter_memory_bytes,
            token_budget=options.token_budget,
        )
        for i in range(num_hosts)
    )


def _check_policy(name: str) -> None:
    try:
        load_policy(name)
    except ValueError as error:
        raise mistake("--policy", name, str(error)) from error


def _cluster(options: TrainOptions, directory: RunDirectory, num_cpus: int) -> AbstractContextManager[None]:
    if options.address:
        return cluster.running(options.address)
    return cluster.embedded(num_cpus=num_cpus, note=directory.ray_note)


def _start(options: TrainOptions, directory: RunDirectory, hosts: tuple[HostSettings, ...]) -> Any:
    from mlora_ray.actors.options import start_placement

    return start_placement(
        PlacementSettings(
            run_id=f"{directory.root.name}-{time.time_ns():x}",
            command=options.command,
            database_url=directory.database_url,
            out_root=str(directory.root),
            bundle_root=str(directory.bundles),
            decisions_path=str(directory.decisions),
            lock_path=str(directory.placement_lock),
            policy=options.policy,
            hosts=hosts,
        )
    )


def _run(run: Run, is_resumed: bool) -> int:
    """Begin, watch and end. Raises MloraError when nothing could be begun."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        sizes = {spec.name: state_bytes(spec) for spec in run.specs}
        ray.get(run.placement.begin.remote(run.specs, sizes, is_resumed), timeout=BEGIN_TIMEOUT_S)
    except RayTaskError as error:
        raise MloraError(str(error.cause or error)) from error
    except RayError as error:
        raise MloraError(f"placement could not start: {str(error).strip().splitlines()[-1]}") from error
    try:
        status = _watch(run)
        if run.interrupt.is_set:
            return _save_and_stop(run)
        if status.error and not ray.get(run.placement.hosts.remote(), timeout=CALL_TIMEOUT_S):
            raise MloraError(status.error)  # before any training
        code = _sum_up(run, status)
        ray.get(run.placement.stop.remote(), timeout=CALL_TIMEOUT_S)
        return code
    except RayError as error:
        why = f"the run stopped: {str(error).strip().splitlines()[0]}; go on with: {_resume_command(run)}"
        _say(run, why)
        return EXIT_SOME_FAILED


def _watch(run: Run) -> RunStatus:
    """Show progress until the run is done or interrupted."""
    import ray

    hosts_shown, warnings_shown = False, set[str]()
    with ProgressView(run.console) as view:
        while True:
            status: RunStatus = ray.get(run.placement.status.remote(), timeout=CALL_TIMEOUT_S)
            if not hosts_shown and status.phase != "starting":
                for host in ray.get(run.placement.hosts.remote(), timeout=CALL_TIMEOUT_S):
                    _say(run, f"{host.id}: {host.summary}")
                hosts_shown = True
            for warning in status.warnings:
                if warning not in warnings_shown:
                    _say(run, f"warning: {warning}")
                    warnings_shown.add(warning)
            if hosts_shown:
                view.update(status)
            if status.phase == "done" or run.interrupt.is_set:
                return status
            time.sleep(POLL_S)


def _say(run: Run, line: str) -> None:
    """One line, as it is: no markup, no wrapping."""
    run.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _save_and_stop(run: Run) -> int:
    import ray

    run.console.print("interrupted: saving every adapter …")
    status: RunStatus = ray.get(run.placement.save_and_stop.remote(), timeout=SAVE_TIMEOUT_S)
    ray.get(run.placement.stop.remote(), timeout=CALL_TIMEOUT_S)
    for warning in status.warnings:
        _say(run, f"warning: {warning}")
    _say(run, f"saved; go on with: {_resume_command(run)}")
    return EXIT_INTERRUPTED


def _sum_up(run: Run, status: RunStatus) -> int:
    """Cross-evaluate, write summary.json and report.html, print the end."""
    import ray

    from mlora_ray.summary import print_summary

    result: RunResult = ray.get(run.placement.result.remote(), timeout=CALL_TIMEOUT_S)
    cross_eval, note = (None, "") if status.error else _cross_evaluate(run, result)
    if run.interrupt.is_set:
        return _save_and_stop(run)
    result = ray.get(run.placement.result.remote(), timeout=CALL_TIMEOUT_S)
    summary = _summary(run, result, status, cross_eval)
    if note:
        summary["cross_eval_note"] = note
    unwritten = _write_summary(run, summary)
    if run.options.is_json:
        print(json.dumps(summary))
    else:
        print_summary(summary, run.console)
    for line in [note, status.error, unwritten]:
        if line:
            _say(run, line)
    if status.error or unwritten:
        _say(run, f"go on with: {_resume_command(run)}")
    return EXIT_SOME_FAILED if summary["failed"] or status.error or unwritten else EXIT_SUCCEEDED


def _write_summary(run: Run, summary: dict[str, Any]) -> str:
    """Answers why it could not be written; else empty."""
    from mlora_ray.report import write_report
    from mlora_ray.summary import write_summary

    try:
        write_summary(str(run.directory.root), summary)
        report = write_report(str(run.directory.root))
    except (OSError, StorageError) as error:
        return f"summary.json and report.html could not be written: {error}"
    _say(run, f"report: {report}")
    return ""


def _resume_command(run: Run) -> str:
    return f"mlora-ray train {run.options.job_file} --out {run.options.out} --resume"


def _cross_evaluate(run: Run, result: RunResult) -> tuple[dict[str, Any] | None, str]:
    """The matrix, or why there is none."""
    import ray
    from ray.exceptions import RayError

    requests = cross.cross_requests(result.records)
    if why := cross.why_not(requests):
        return None, why
    run.console.print(f"cross-evaluating {len(requests)} adapters on at most {cross.MAX_CROSS_ROWS} rows of each job …")
    _await_host(run)
    asked = run.placement.cross_evaluate.remote(requests, cross.MAX_CROSS_ROWS)
    while not run.interrupt.is_set:
        ready, _ = ray.wait([asked], timeout=POLL_S)
        if ready:
            try:
                return cross.cross_entry(requests, ray.get(asked, timeout=CALL_TIMEOUT_S)), ""
            except RayError as error:
                return None, f"no cross-evaluation: {str(error).strip().splitlines()[-1]}"
    return None, ""


def _await_host(run: Run) -> None:
    """Resuming a run whose jobs had all ended, it is over before a host has loaded the base."""
    import ray

    waits_until_s = time.monotonic() + CALL_TIMEOUT_S
    while not run.interrupt.is_set and time.monotonic() < waits_until_s:
        status: RunStatus = ray.get(run.placement.status.remote(), timeout=CALL_TIMEOUT_S)
        if status.error or ray.get(run.placement.hosts.remote(), timeout=CALL_TIMEOUT_S):
            return
        time.sleep(POLL_S)


def _summary(run: Run, result: RunResult, status: RunStatus, cross_eval: dict[str, Any] | None) -> dict[str, Any]:
    from mlora_ray.summary import build_summary

    base = run.specs[0].base
    why = status.error or "not finished"
    return build_summary(
        str(run.directory.root),
        command=run.options.command,
        device=result.hosts[0].device_type if result.hosts else "",
        base=base.name,
        started_at=run.started_at,
        wall_s=time.monotonic() - run.started_s,
        cpu_s=result.usage.cpu_s + time.process_time(),
        peak_bytes=result.usage.peak_bytes,
        failed={r.spec.name: r.error or why for r in result.records if r.state is not JobState.SUCCEEDED},
        cross_eval=cross_eval,
        throughput=[{"t_s": t, "tokens_per_s": rate} for t, rate in result.samples],
        order=[r.spec.name for r in result.records],
    )
