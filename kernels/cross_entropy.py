"""Next-token loss on target rows only, in chunks, with the gradient made in the same pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlora_ray.kernels import native
from mlora_ray.kernels.rowwise import tiled_mm


class HeadLoss(NamedTuple):
    loss_N: Tensor  # fp32, one a target row
    dhidden_ND: Tensor | None  # weighted gradient by row


def head_loss(
    hidden_ND: Tensor,
    w_VD: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    weight_N: Tensor | None,
    tile: int,
    softcap: float = 0.0,
    logit_scale: float = 1.0,
) -> HeadLoss:
    """Cross-entropy of each row and, when `weight_N` (fp32) is given, d(sum weight * loss)/d hidden.

    The logits of one chunk of `tile` rows are alive at a time. Each row's bits depend on that row alone.
    """
    if not len(target_N):
        nothing = hidden_ND.new_empty(0, hidden_ND.shape[1])
        return HeadLoss(hidden_ND.new_empty(0, dtype=torch.float32), None if weight_N is None else nothing)
    losses, grads = [], []
    for start in range(0, hidden_ND.shape[0], tile):
        rows = slice(start, start + tile)
        logits = tiled_mm(hidden_ND[rows], w_VD.t(), tile)
        loss, dlogits = _chunk(logits, bias_V, target_N[rows], weight_N, rows, softcap, logit_scale)
        losses.append(loss)
        if dlogits is not None:
            grads.append(tiled_mm(dlogits, w_VD, tile))
    return HeadLoss(torch.cat(losses), torch.cat(grads) if grads else None)


def _chunk(
    logits: Tensor,
    bias_V: Tensor | None,
    target: Tensor,
    weight_N: Tensor | None,
    rows: slice,
    softcap: float,
    logit_scale: float,
) -> tuple[Tensor, Tensor | None]:
    dtype = logits.dtype
    lib = native.for_tensor(logits)
    if lib and bias_V is None and not softcap and logit_scale == 1.0:
        loss = torch.empty(len(target), dtype=torch.float32)
        weight = None if weight_N is None else weight_N[rows].contiguous()
        lib.call("cross_entropy", dtype, logits, target.contiguous(), weight, loss, len(target), logits.shape[1])
        return loss, None if weight is None else logits
    if bias_V is not None:
        logits = logits + bias_V
    if logit_scale != 1.0:
        logits = logits * logit_scale
    capped = None
    if softcap:
        capped = torch.tanh(logits / softcap)
        logits = capped * softcap
    logp = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    loss = logp.gather(1, target.unsqueeze(1)).squeeze(1).neg_()
    if weight_N is None:
        return loss, None
    weight = weight_N[rows]
    dlogits = logp.exp_()
    dlogits[torch.arange(len(target), device=target.device), target] -= 1.0
    dlogits.mul_((weight * logit_scale).unsqueeze(1))
    if capped is not None:
        dlogits.mul_(1.0 - capped.float().square())
    return loss, dlogits.to(dtype)
