"""Operations whose result for a row depends on that row alone, bit for bit, whatever shares the call.

A GEMM library picks its blocking by the number of rows, so the same row can differ in the last bit between a call of
300 rows and one of 900. Every base GEMM therefore runs in calls of exactly `tile` rows (docs/adr/0002).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlora_ray.kernels import native


def tiled_mm(x_TD: Tensor, w_DO: Tensor, tile: int) -> Tensor:
    """x @ w in calls of exactly `tile` rows; the tail is padded with zeros. Returns [T, O]."""
    x_TD = _apart(x_TD)
    tokens, out = x_TD.shape[0], w_DO.shape[1]
    y_TO = x_TD.new_empty(tokens, out)
    full = tokens - tokens % tile
    for start in range(0, full, tile):
        torch.mm(x_TD[start : start + tile], w_DO, out=y_TO[start : start + tile])
    if full < tokens:
        padded = _apart(x_TD.new_zeros(tile, x_TD.shape[1]))
        padded[: tokens - full] = x_TD[full:]
        y_TO[full:] = torch.mm(padded, w_DO)[: tokens - full]
    return y_TO


def _apart(x_TD: Tensor) -> Tensor:
    """The same rows, each with zeros after it up to a multiple of 32 columns, where oneDNN's AMX kernels need them.

    They read a bf16 row up to there, times zero: a NaN or Inf at the start of the next row in memory would get in.
    """
    width = x_TD.shape[1]
    if x_TD.dtype != torch.bfloat16 or x_TD.device.type != "cpu" or width % 32 == 0:
        return x_TD
    padded = x_TD.new_zeros(x_TD.shape[0], width + -width % 32)[:, :width]
    return padded.copy_(x_TD)


def rms_norm_forward(x_TD: Tensor, weight_D: Tensor, eps: float, one_plus: bool) -> tuple[Tensor, Tensor]:
    """y = w * x / rms(x), or (1 + w) * ... in fp32 as Gemma does. Returns (y [T, D], 1/rms fp32 [T, 1])."""
    if lib := native.for_tensor(x_TD):
        x_TD = x_TD.contiguous()
        y, rstd = torch.empty_like(x_TD), x_TD.new_empty(*x_TD.shape[:-1], 1, dtype=torch.float32)
        rows, dim = rstd.numel(), x_TD.shape[-1]
        lib.call("rms_norm", x_TD.dtype, x_TD, weight_D, float(eps), int(one_plus), y, rstd, rows, dim)
        return y, rstd
    x = x_TD.float()
    rstd_T1 = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps))
    normed = x.mul_(rstd_T1) if x_TD.dtype != torch.float32 else x * rstd_T1
    if one_plus:
        return normed.mul_(1.0 + weight_D.float()).to(x_TD.dtype), rstd_T1
    return normed.to(x_TD.dtype).mul_(weight_D), rstd_T1


def rms_norm_backward(dy_TD: Tensor, x_TD: Tensor, rstd_T1: Tensor, weight_D: Tensor, one_plus: bool) -> Tensor:
    """dx = rstd * (g - n * mean(g * n)) with g = dy * w and n = x * rstd. The weight is frozen."""
    if lib := native.for_tensor(x_TD):
        dy_TD, x_TD = dy_TD.contiguous(), x_TD.contiguous()
        dx, rows, dim = torch.empty_like(x_TD), rstd_T1.numel(), x_TD.shape[-1]
        lib.call("rms_norm_back", x_TD.dtype, dy_TD, x_TD, rstd_T1, weight_D, int(one_plus), dx, rows, dim)
        return dx
    normed = x_TD.float() * rstd_T1
    g = dy_TD * (1.0 + weight_D.float() if one_plus else weight_D.float())
    dot_T1 = torch.linalg.vecdot(g, normed, dim=-1).unsqueeze_(-1).div_(x_TD.shape[-1])
    return g.addcmul_(normed, dot_T1, value=-1.0).mul_(rstd_T1).to(x_TD.dtype)


def swiglu_forward(gate_up_TI: Tensor) -> Tensor:
    """silu(gate) * up of a joined [T, 2 I] -> [T, I]."""
    gate, up = gate_up_TI.chunk(2, dim=-1)
    if lib := native.for_tensor(gate_up_TI):
        dim, stride = gate.shape[-1], gate_up_TI.shape[-1]
        h_TI = gate_up_TI.new_empty(*gate.shape)
        lib.call("swiglu", h_TI.dtype, gate, up, stride, h_TI, h_TI.numel() // dim, dim)
        return h_TI
    return F.silu(gate).mul_(up)


def swiglu_backward(dh_TI: Tensor, gate_up_TI: Tensor) -> Tensor:
    """Gradient of the joined input [T, 2 I]."""
    gate, up = gate_up_TI.chunk(2, dim=-1)
    if lib := native.for_tensor(gate_up_TI):
        out, dh_TI = torch.empty_like(gate_up_TI), dh_TI.contiguous()
        dgate, dup = out.chunk(2, dim=-1)
        dim, stride = gate.shape[-1], gate_up_TI.shape[-1]
        rows = dh_TI.numel() // dim
        lib.call("swiglu_back", out.dtype, dh_TI, gate, up, stride, dgate, dup, stride, rows, dim)
        return out
    return torch.cat([torch.ops.aten.silu_backward(dh_TI * up, gate), F.silu(gate).mul_(dh_TI)], dim=-1)
