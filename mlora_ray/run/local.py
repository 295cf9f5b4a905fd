"""`train` on this machine alone: a directory, an embedded cluster and a service that end with the run.

The work is done by the actors; this process may be killed at any moment and the directory stays resumable.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlora_ray.actors import local_cluster
from mlora_ray.actors.connect import start_service
from mlora_ray.config.job_file import JobFile
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.errors import command_line_mistake
from mlora_ray.policies.contract import load_policy
from mlora_ray.prepare.job_specs import prepare
from mlora_ray.run.directory import RunDirectory
from mlora_ray.run.options import TrainOptions, choose_device, choose_threads
from mlora_ray.run.resume import as_before
from mlora_ray.run.session import Started, TrainSession
from mlora_ray.run.submit import submit_request
from mlora_ray.types import AutoscaleSettings, HostType

SAVE_ATTEMPTS = 5  # then a job fails, resumable: on one machine a full disk stays full until somebody looks
HOST_TIMEOUT_S = 60.0  # one machine that everything shares may be slow; a dead process is seen at once
TICK_S = 0.25


@contextmanager
def private_session(job_file: JobFile, options: TrainOptions, started: Started) -> Iterator[TrainSession]:
    """The jobs of a file on a service of their own, which ends with the block.

    Raises InputError before any training. Of a run that never trained nothing is left in the directory.
    """
    _check_policy(options.policy)
    directory = RunDirectory(options.out)
    directory.open(is_resume=options.is_resume, is_overwrite=options.is_overwrite)
    try:
        choose_device(options.device)
        specs = prepare(job_file, str(directory.data))
        if options.is_overwrite:
            directory.empty()
        is_resumed = directory.holds(specs, options.job_file)
        settings = service_settings(as_before(options, directory) if is_resumed else options, directory)
    except BaseException:
        directory.forget()
        raise
    try:
        num_cpus = sum(t.max_hosts * t.threads for t in settings.host_types)
        with local_cluster.embedded(num_cpus=num_cpus, note=directory.ray_note):
            yield TrainSession(
                service=start_service(settings, is_private=True),
                request=submit_request(specs, options.command, options.job_file),
                storage=str(directory.root),
                again=f"mlora-ray train {options.job_file} --out {options.out} --resume",
                started=started,
            )
    except BaseException:
        if not is_resumed:
            directory.forget_untrained()
        raise
    finally:
        directory.close()


def service_settings(options: TrainOptions, directory: RunDirectory) -> ServiceSettings:
    """A service of this run alone, over DIR: one host for each device, the CPU is one."""
    import torch

    device = choose_device(options.device)
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
