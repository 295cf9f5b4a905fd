"""What `mlora-ray train` was asked on the command line, checked."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mlora_ray.errors import command_line_mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Sizes in bytes; 0 and "" mean: choose."""

    job_file: str
    out: str
    command: str
    address: str = ""
    is_resume: bool = False
    is_overwrite: bool = False
    memory_limit_bytes: int = 0
    adapter_memory_bytes: int = 0
    token_budget: int = 0
    threads: int = 0
    device: str = "auto"
    policy: str = "fifo"
    is_json: bool = False


def choose_device(device: str) -> str:
    """`auto` is the GPU where there is one. Raises InputError for a device that is not here."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise command_line_mistake("--device", device, "cpu or auto: no CUDA device can be used here")
    if device not in ("cpu", "cuda"):
        raise command_line_mistake("--device", device, "auto, cpu or cuda")
    return device


def choose_threads(threads: int, num_hosts: int = 1) -> int:
    """The given number, or this process's cores shared among the hosts."""
    return threads or max(1, len(os.sched_getaffinity(0)) // num_hosts)
