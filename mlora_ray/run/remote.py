"""`train --address`: the jobs of a file on a service of a running cluster, which is started if it is not there.

The driver may be lost at any moment: the jobs go on, and the same command watches them again. Told to stop (Ctrl-C,
SIGTERM as `ray job stop` sends it) it saves its own jobs and leaves them PAUSED; the same command goes on with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlora_ray.config.job_file import JobFile
from mlora_ray.errors import command_line_mistake
from mlora_ray.run.new_service import Target
from mlora_ray.run.options import TrainOptions
from mlora_ray.run.session import Started, TrainSession
from mlora_ray.run.submit import prepare_jobs

if TYPE_CHECKING:
    from rich.console import Console


def target_of(options: TrainOptions, settings_path: str, service: str) -> Target:
    """Raises InputError for options that a service has no use for."""
    if options.is_overwrite:
        raise command_line_mistake(
            "--overwrite", "", "left out with --address: a service keeps its jobs. Cancel them, or use other names"
        )
    if options.device not in ("auto", "cpu", "cuda"):
        raise command_line_mistake("--device", options.device, "auto, cpu or cuda")
    return Target(
        service=service,
        storage=options.out,
        storage_option="--out",
        settings_path=settings_path,
        policy=options.policy,
        device="" if options.device == "auto" else options.device,
        threads=options.threads,
        limits={
            "memory_limit_bytes": options.memory_limit_bytes,
            "adapter_memory_bytes": options.adapter_memory_bytes,
            "token_budget": options.token_budget,
        },
    )


def shared_session(job_file: JobFile, target: Target, command: str, started: Started, out: Console) -> TrainSession:
    """On the cluster that this process has joined. Raises InputError before any training."""
    service, request = prepare_jobs(job_file, target, command, out)
    storage = service.settings().storage
    return TrainSession(service=service, request=request, storage=storage, again=command, started=started)
