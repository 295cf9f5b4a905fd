"""The driver behind `mlora-ray train`: check, start the cluster, watch, evaluate across, sum up.

The work is done by the actors; this process may be killed at any moment and the directory stays resumable.
"""

from __future__ import annotations

import datetime
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from mlora_ray.actors import local_cluster
from mlora_ray.bases.linear_shapes import state_bytes
from mlora_ray.config.job_file import read_job_file
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.display.progress_view import ProgressView
from mlora_ray.errors import MloraError, command_line_mistake
from mlora_ray.policies.contract import load_policy
from mlora_ray.prepare.job_specs import prepare
from mlora_ray.run.directory import RunDirectory
from mlora_ray.run.finish import CALL_TIMEOUT_S, EXIT_SOME_FAILED, POLL_S, sum_up
from mlora_ray.run.interrupt import EXIT_CODE as EXIT_INTERRUPTED
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.run.options import TrainOptions, choose_device, choose_threads
from mlora_ray.run.resume import as_before
from mlora_ray.run.session import Run
from mlora_ray.types import AutoscaleSettings, HostType
from mlora_ray.types.service import SubmitRequest
from mlora_ray.types.status import RunStatus

if TYPE_CHECKING:
    from rich.console import Console

BEGIN_TIMEOUT_S = 120.0  # it may wait to see that a killed run's placement is gone
SAVE_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 60.0
SAVE_ATTEMPTS = 5  # then a job fails, resumable: on one machine a full disk stays full until somebody looks
HOST_TIMEOUT_S = 60.0  # one machine that everything shares may be slow; a dead process is seen at once
TICK_S = 0.25


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
        settings = service_settings(options, directory, device)
        num_cpus = sum(t.max_hosts * t.threads for t in settings.host_types)
        with _cluster(options, directory, num_cpus), Interrupt() as interrupt:
            from mlora_ray.actors.options import start_placement

            placement = start_placement(settings)
            run = Run(options, directory, specs, console, interrupt, placement, started_s, started_at)
            run.steps_before = directory.num_steps() if is_resumed else 0
            return _run(run)
    except MloraError:
        if not is_resumed:
            directory.forget_untrained()
        raise
    finally:
        directory.close()


def service_settings(options: TrainOptions, directory: RunDirectory, device: str) -> ServiceSettings:
    """A service of this run alone, over DIR: one host for each device, the CPU is one."""
    import torch

    num_hosts = torch.cuda.device_count() if device == "cuda" else 1
    threads = choose_threads(options.threads, num_hosts)
    host_type = HostType(
        name=device,
        device=device,
        num_cpus=threads,
        num_gpus=1 if device == "cuda" else 0,
        max_hosts=num_hosts,
        threads=threads,
        memory_limit_bytes=options.memory_limit_bytes,
        adapter_memory_bytes=options.adapter_memory_bytes,
        token_budget=options.token_budget,
    )
    return ServiceSettings(
        name=f"{directory.root.name}-{time.time_ns():x}",
        storage=str(directory.root),
        database_url=directory.database_url,
        policy=options.policy,
        host_types=(host_type,),
        autoscale=AutoscaleSettings(min_hosts=num_hosts, max_hosts=num_hosts),
        tick_s=TICK_S,
        host_timeout_s=HOST_TIMEOUT_S,
        save_attempts=SAVE_ATTEMPTS,
        memory_recycle_share=0.0,  # a limit given by hand may be tight, and a new process would not use less
        page_root=str(directory.pages),
        ends_on_trouble=True,
    )


def _check_policy(name: str) -> None:
    try:
        load_policy(name)
    except ValueError as error:
        raise command_line_mistake("--policy", name, f"one that can be loaded: {error}") from error


def _cluster(options: TrainOptions, directory: RunDirectory, num_cpus: int) -> AbstractContextManager[None]:
    if options.address:
        return local_cluster.running(options.address)
    return local_cluster.embedded(num_cpus=num_cpus, note=directory.ray_note)


def _run(run: Run) -> int:
    """Begin, watch and end. Raises MloraError when nothing could be begun."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        request = SubmitRequest(
            specs=tuple(run.specs),
            state_bytes=tuple((spec.name, state_bytes(spec)) for spec in run.specs),
            command=run.options.command,
            job_file=run.options.job_file,
        )
        ray.get(run.placement.submit.remote(request), timeout=BEGIN_TIMEOUT_S)
    except RayTaskError as error:
        raise MloraError(str(error.cause or error)) from error
    except RayError as error:
        raise MloraError(f"placement could not start: {str(error).strip().splitlines()[-1]}") from error
    try:
        status = _watch(run)
        if run.interrupt.is_set:
            return _save_and_stop(run)
        if status.error and not ray.get(run.placement.infos.remote(), timeout=CALL_TIMEOUT_S):
            raise MloraError(status.error)  # before any training
        code = sum_up(run, status)
        if code is None:
            return _save_and_stop(run)
        ray.get(run.placement.stop.remote(STOP_TIMEOUT_S), timeout=CALL_TIMEOUT_S)
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
                for host in ray.get(run.placement.infos.remote(), timeout=CALL_TIMEOUT_S):
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
    status: RunStatus = ray.get(run.placement.save_and_pause.remote(), timeout=SAVE_TIMEOUT_S)
    ray.get(run.placement.stop.remote(STOP_TIMEOUT_S), timeout=CALL_TIMEOUT_S)
    for warning in status.warnings:
        run.say(f"warning: {warning}")
    run.say(f"saved; go on with: {run.resume_command}")
    return EXIT_INTERRUPTED
