"""`train`: in a cluster of its own, or on a running one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mlora_ray.errors import command_line_mistake
from mlora_ray.run.options import TrainOptions

if TYPE_CHECKING:
    from rich.console import Console


def train(options: TrainOptions, settings_path: str, service: str, out: Console) -> int:
    """Answers the exit code. Raises InputError before any training."""
    if options.address:
        return _on_cluster(options, settings_path, service, out)
    if settings_path:
        raise command_line_mistake(
            "--settings", settings_path, "given with --address only: a cluster of our own needs none"
        )
    if not options.out:
        raise command_line_mistake("--out", "", "a directory for the adapters; or --address of a running cluster")
    from mlora_ray.run.local import train as train_here

    return train_here(dataclasses.replace(options, policy=options.policy or "fifo"), out)


def _on_cluster(options: TrainOptions, settings_path: str, service: str, out: Console) -> int:
    from mlora_ray.run.new_service import Target
    from mlora_ray.run.remote import train_on_cluster

    if options.is_overwrite:
        raise command_line_mistake(
            "--overwrite", "", "left out with --address: a service keeps its jobs. Cancel them, or use other names"
        )
    if options.device not in ("auto", "cpu", "cuda"):
        raise command_line_mistake("--device", options.device, "auto, cpu or cuda")
    target = Target(
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
    return train_on_cluster(options.job_file, target, options.address, options.command, options.is_json, out)
