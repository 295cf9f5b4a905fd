"""First values of the LoRA matrices, a function of the job's seed and the module alone."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from mlora_ray.engine.adapter_layout import ModuleSlot, a_view, b_view


def _init_module(weights_P: Tensor, slot: ModuleSlot, how: str, seed: int) -> None:
    """PEFT's initial values, from a stream of this seed and module alone; B is zero unless `how` says otherwise."""
    rng = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(slot.name.encode())]))
    a, b = a_view(weights_P, slot), b_view(weights_P, slot)
    if how == "gaussian":
        a.copy_(torch.from_numpy(rng.standard_normal(a.shape, np.float32) / slot.r))
    elif how == "orthogonal":
        _init_orthogonal(a, b, slot.r, rng)
    else:
        a.copy_(_uniform(a.shape, slot.num_in, rng))
    if how == "random":
        b.copy_(_uniform(b.shape, slot.r, rng))


def _uniform(shape: torch.Size, fan_in: int, rng: np.random.Generator) -> Tensor:
    """kaiming_uniform with a = sqrt(5): U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5
    return torch.from_numpy(((rng.random(tuple(shape), np.float32) * 2.0 - 1.0) * np.float32(bound)).astype(np.float32))


def _init_orthogonal(a_RD: Tensor, b_OR: Tensor, r: int, rng: np.random.Generator) -> None:
    """A and B from the even and odd rows of one orthogonal matrix, so that B A is zero and neither is (PEFT)."""
    q, _ = np.linalg.qr(rng.standard_normal((r, r)))
    odd, even = q[0::2], q[1::2]
    a_RD.copy_(torch.from_numpy((rng.standard_normal((a_RD.shape[1], r // 2)) @ odd[: r // 2]).T / 10.0))
    b_OR.copy_(torch.from_numpy(rng.standard_normal((b_OR.shape[0], r // 2)) @ even[: r // 2] / 10.0))
