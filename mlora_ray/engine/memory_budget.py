"""How much memory this process may use, and what that buys. Sizes in bytes."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import NamedTuple

import torch

from mlora_ray.engine.base import Base
from mlora_ray.errors import MloraError
from mlora_ray.kernels.attention import BUCKET, FLASH_FROM
from mlora_ray.types import MemoryModel

SHARE = 0.8  # of the device's or the container's memory, when no limit is given
ROW_TOKENS = 1536  # tokens of a packed row at most: 16% faster than 1,024 on a Xeon with AMX, 2,048 no faster still
SCRATCH_BYTES = 320 << 20  # for open steps on a small base: 11 adapters of rank 16 on a 135M base
PROCESS_BYTES = 700 << 20  # Python, torch and transformers before the base, measured on Linux
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed", "bad_alloc")


class MemoryBudget(NamedTuple):
    """What the memory limit buys."""

    limit_bytes: int
    base_bytes: int
    process_bytes: int
    activation_bytes: int  # of one packed row of `token_budget` tokens, forward and backward
    scratch_bytes: int  # compute copies and gradients of the adapters in one packed row
    adapter_bytes: int  # for resident adapters
    token_budget: int

    def describe(self) -> str:
        gib = 1 << 30
        return (
            f"memory limit {self.limit_bytes / gib:.1f} GiB: base {self.base_bytes / gib:.2f}, "
            f"process {self.process_bytes / gib:.2f}, activations {self.activation_bytes / gib:.2f} "
            f"({self.token_budget} tokens per step), open steps {self.scratch_bytes / gib:.2f}, "
            f"adapters {self.adapter_bytes / gib:.2f}"
        )


def detect_limit(device: str = "cpu") -> int:
    """80% of the GPU's memory, or of the container's (cgroup v2, v1) or machine's."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory * SHARE)
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return int(min(limits) * SHARE)


def process_bytes(device: str = "cpu") -> int:
    """Memory in use now: resident set of this process, or the device's allocations."""
    if device.startswith("cuda"):
        return torch.cuda.memory_reserved(device)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_out_of_memory(error: Exception) -> bool:
    """A device's, Python's or numpy's; torch's CPU allocator and CUDA's libraries say it in a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def free_unused(device: str = "cpu") -> None:
    """Give back what nobody refers to any more; on a GPU what torch keeps for later."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def activation_bytes_per_token(base: Base) -> int:
    """Saved for the backward and alive at the peak, per packed token: a bound, checked by tests/engine/test_memory.py.

    Each site group keeps its input and its output; the gated MLP, norms and residuals about as much again (factor
    2.2). Attention keeps padded copies and score rows of a sequence as long as the row at the worst.
    """
    size = base.head_VD.element_size()
    linear = sum(group.num_in + group.num_out for group in base.groups) * size
    heads = int(getattr(base.config, "num_attention_heads", 1))
    layers = int(getattr(base.config, "num_hidden_layers", 1))
    scores = layers * heads * ROW_TOKENS // 2 * size
    return int(2.2 * linear + scores)


def head_bytes(base: Base) -> int:
    """Logits of one chunk: compute dtype, fp32 log-probabilities and the gradient's copy."""
    return base.context.tile * base.head_VD.shape[0] * (2 * base.head_VD.element_size() + 4)


class MemoryCosts(NamedTuple):
    """What a process pays before the first adapter. Bytes."""

    process_bytes: int
    head_bytes: int
    token_bytes: float  # of a packed token in sequences as long as any whose scores attention keeps


def costs_of(base: Base, memory: MemoryModel | None = None) -> MemoryCosts:
    """As measured, the head's part within the process; bounds where nothing was measured."""
    if memory is not None:
        longest = min(FLASH_FROM - BUCKET, base.position_limit or FLASH_FROM)
        return MemoryCosts(memory.fixed_bytes, 0, memory.token_bytes + memory.score_bytes * longest)
    own = PROCESS_BYTES if base.device.type == "cpu" else 0
    return MemoryCosts(own, head_bytes(base), activation_bytes_per_token(base))


def plan_budget(
    base: Base, limit_bytes: int, adapter_bytes: int = 0, token_budget: int = 0, memory: MemoryModel | None = None
) -> MemoryBudget:
    """Split `limit_bytes`, halving the row until two thirds are left for adapters. Raises MloraError."""
    own, head, per_token = costs_of(base, memory)
    left = limit_bytes - own - base.num_bytes - head
    tokens = token_budget or ROW_TOKENS
    while not token_budget and tokens > base.context.tile and tokens * per_token > left // 3:
        tokens //= 2
    activations = int(tokens * per_token) + head
    left = limit_bytes - own - base.num_bytes - activations
    if left <= 0:
        need = (own + base.num_bytes + activations) / (1 << 30)
        raise MloraError(
            f"memory limit {limit_bytes / (1 << 30):.2f} GiB is too small for base {base.spec.name!r}: "
            f"it needs {need:.2f} GiB before the first adapter (raise --max-memory or lower --token-budget)"
        )
    scratch = min(left // 4, max(SCRATCH_BYTES, base.num_bytes // 2))
    room = left - scratch
    return MemoryBudget(
        limit_bytes,
        base.num_bytes,
        own,
        activations,
        scratch,
        min(adapter_bytes, room) if adapter_bytes else room,
        tokens,
    )


def too_large(base: Base, tokens: int, used_bytes: int, budget: MemoryBudget) -> str:
    """Why a nano-batch of `tokens` cannot be trained here, and what helps."""
    mib = 1 << 20
    need = (tokens * activation_bytes_per_token(base) + head_bytes(base)) / mib
    return (
        f"quarantined: a nano-batch of {tokens:,} tokens does not fit into memory alone (about {need:,.0f} MiB; "
        f"{used_bytes / mib:,.0f} of {budget.limit_bytes / mib:,.0f} MiB are in use): "
        f"shorten max_length, or train on a larger host"
    )
