"""The driver behind `mlora-ray train`: check, start the cluster, watch, evaluate across, sum up.

The work is done by the actors; this process may be killed at any moment and the directory stays resumable.
"""

from __future__ import annotations

import datetime
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mlora_ray import cluster
from mlora_ray.check import prepare
from mlora_ray.config import read_job_file
from mlora_ray.ending import CALL_TIMEOUT_S, EXIT_SOME_FAILED, POLL_S, sum_up
from mlora_ray.errors import MloraError
from mlora_ray.interrupt import EXIT_CODE as EXIT_INTERRUPTED
from mlora_ray.interrupt import Interrupt
from mlora_ray.policies.contract import load_policy
from mlora_ray.progress import ProgressView
from mlora_ray.resumption import as_before
from mlora_ray.run import Run
from mlora_ray.run_directory import RunDirectory
from mlora_ray.run_facts import PlacementSettings
from mlora_ray.shapes import state_bytes
from mlora_ray.train_options import TrainOptions, choose_device, choose_threads, mistake
from mlora_ray.types import BaseSpec, HostSettings, RunStatus

if TYPE_CHECKING:
    from rich.console import Console

BEGIN_TIMEOUT_S = 600.0  # it may wait for a killed run's actors, and reads every bundle on resume
SAVE_TIMEOUT_S = 900.0


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
            run.steps_before = directory.num_steps() if is_resumed else 0
            return _run(run, is_resumed)
    except MloraError:
        if not is_resumed:
            directory.forget_untrained()
        raise
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
        code = sum_up(run, status)
        if code is None:
            return _save_and_stop(run)
        ray.get(run.placement.stop.remote(), timeout=CALL_TIMEOUT_S)
        return code
    except RayError as error:
        why = f"the run stopped: {str(error).strip().splitlines()[0]}; go on with: {run.resume_command}"
        run.say(why)
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
                    run.say(f"{host.id}: {host.summary}")
                hosts_shown = True
            for warning in status.warnings:
                if warning not in warnings_shown:
                    run.say(f"warning: {warning}")
                    warnings_shown.add(warning)
            if hosts_shown:
                view.update(status)
            if status.phase == "done" or run.interrupt.is_set:
                return status
            time.sleep(POLL_S)


def _save_and_stop(run: Run) -> int:
    import ray

    run.console.print("interrupted: saving every adapter …")
    status: RunStatus = ray.get(run.placement.save_and_stop.remote(), timeout=SAVE_TIMEOUT_S)
    ray.get(run.placement.stop.remote(), timeout=CALL_TIMEOUT_S)
    for warning in status.warnings:
        run.say(f"warning: {warning}")
    run.say(f"saved; go on with: {run.resume_command}")
    return EXIT_INTERRUPTED
