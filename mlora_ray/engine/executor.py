"""Run one packed row through a base: losses, and gradients into each adapter's own buffer."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mlora_ray.engine.base import Base
from mlora_ray.engine.memory_budget import is_out_of_memory
from mlora_ray.engine.packed_row import Request, pack
from mlora_ray.kernels.cross_entropy import head_loss


class RowResult(NamedTuple):
    """Answer to one request."""

    loss_sum: float  # over its targets, each from fp32 logits
    num_targets: int


class Raised(NamedTuple):
    """What a row raised, in words: with its traceback it would hold the row's memory."""

    error: str
    is_memory: bool


def try_row(base: Base, requests: list[Request]) -> list[RowResult] | Raised:
    """`run_row` with a backward. The tenants' edge: whose failure it is, is found by replaying."""
    try:
        return run_row(base, requests, has_backward=True)
    except Exception as error:  # noqa: BLE001
        return Raised(f"{type(error).__name__}: {error}", is_out_of_memory(error))


def run_row(base: Base, requests: list[Request], has_backward: bool) -> list[RowResult]:
    """Forward, and backward when asked: each request's gradient is added to its scratch's buffer.

    An exception leaves the gradient buffers of these requests unusable; weights and moments are untouched.
    """
    row = pack(requests, base.device)
    context = base.context
    context.row, context.has_backward = row, has_backward
    try:
        with torch.set_grad_enabled(has_backward):
            out = base.decoder(input_ids=row.token_ids, position_ids=row.positions, use_cache=False)
        hidden_TD = out.last_hidden_state[0]
        loss = head_loss(
            hidden_TD.detach().index_select(0, row.predict_N),
            base.head_VD,
            base.head_bias_V,
            row.target_N,
            row.weight_N if has_backward else None,
            context.tile,
            base.softcap,
            base.logit_scale,
        )
        if loss.dhidden_ND is not None and hidden_TD.requires_grad:
            dhidden = torch.zeros_like(hidden_TD)
            dhidden.index_copy_(0, row.predict_N, loss.dhidden_ND)
            hidden_TD.backward(dhidden)
    finally:
        context.row = None
    ends = row.target_bounds
    sums = torch.stack([loss.loss_N[ends[i] : ends[i + 1]].sum() for i in range(len(requests))]).tolist()
    return [RowResult(total, ends[i + 1] - ends[i]) for i, total in enumerate(sums)]
