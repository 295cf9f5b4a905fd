"""Operations whose result for a row depends on that row alone, bit for bit, whatever shares the call.

A GEMM library picks its blocking by the number of rows, so the same row can differ in the last bit between a call of
300 rows and one of 900. Every base GEMM therefore runs in calls of exactly `tile` rows (docs/adr/0002).
"""

from __future__ import annotations

import torch
from torch import Tensor


def tiled_mm(x_TD: Tensor, w_DO: Tensor, tile: int) -> Tensor:
    """x @ w in calls of exactly `tile` rows; the tail is padded with zeros. Returns [T, O]."""
    tokens, out = x_TD.shape[0], w_DO.shape[1]
    y_TO = x_TD.new_empty(tokens, out)
    full = tokens - tokens % tile
    for start in range(0, full, tile):
        torch.mm(x_TD[start : start + tile], w_DO, out=y_TO[start : start + tile])
    if full < tokens:
        padded = x_TD.new_zeros(tile, x_TD.shape[1])
        padded[: tokens - full] = x_TD[full:]
        y_TO[full:] = torch.mm(padded, w_DO)[: tokens - full]
    return y_TO


def rms_norm_forward(x_TD: Tensor, weight_D: Tensor, eps: float, one_plus: bool) -> tuple[Tensor, Tensor]:
    """y = w * x / rms(x), or (1 + w) * ... in fp32 as Gemma does. Returns (y [T, D], 1/rms fp32 [T, 1])."""
    x = x_TD.float()
    rstd_T1 = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps))
    normed = x.mul_(rstd_T1) if x_TD.dtype != torch.float32 else x * rstd_T1
    if one_plus:
        return normed.mul_(1.0 + weight_D.float()).to(x_TD.dtype), rstd_T1
    return normed.to(x_TD.dtype).mul_(weight_D), rstd_T1


def rms_norm_backward(dy_TD: Tensor, x_TD: Tensor, rstd_T1: Tensor, weight_D: Tensor, one_plus: bool) -> Tensor:
    """dx = rstd * (g - n * mean(g * n)) with g = dy * w and n = x * rstd. The weight is frozen."""
    normed = x_TD.float() * rstd_T1
    g = dy_TD * (1.0 + weight_D.float() if one_plus else weight_D.float())
    dot_T1 = torch.linalg.vecdot(g, normed, dim=-1).unsqueeze_(-1).div_(x_TD.shape[-1])
    return g.addcmul_(normed, dot_T1, value=-1.0).mul_(rstd_T1).to(x_TD.dtype)
