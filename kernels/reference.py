"""Grouped LoRA as the plainest possible loop, in fp32: the truth every other kernel is compared to.

Shapes: x_TD tokens by input width, y_TO, A_RD, B_OR; a segment is the rows `[start, end)` of one nano-batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ReferenceSegment(NamedTuple):
    """Rows `[start, end)` belong to the adapter `(a_RD, b_OR)` with this scale; `keep_TD` is a dropout mask or None."""

    start: int
    end: int
    a_RD: Tensor
    b_OR: Tensor
    scale: float
    keep_TD: Tensor | None = None  # already divided by the keep probability


class ReferenceGrads(NamedTuple):
    dx_TD: Tensor
    da: list[Tensor]  # per segment, [R, D]
    db: list[Tensor]  # per segment, [O, R]


def lora_forward(x_TD: Tensor, w_OD: Tensor, bias_O: Tensor | None, segments: list[ReferenceSegment]) -> Tensor:
    """y = x W^T + bias + scale * drop(x) A^T B^T, segment by segment; rows outside every segment get the base alone."""
    x, w = x_TD.float(), w_OD.float()
    y_TO = x @ w.t()
    if bias_O is not None:
        y_TO = y_TO + bias_O.float()
    for seg in segments:
        xs = x[seg.start : seg.end] if seg.keep_TD is None else x[seg.start : seg.end] * seg.keep_TD.float()
        y_TO[seg.start : seg.end] += seg.scale * (xs @ seg.a_RD.float().t()) @ seg.b_OR.float().t()
    return y_TO


def lora_backward(x_TD: Tensor, w_OD: Tensor, dy_TO: Tensor, segments: list[ReferenceSegment]) -> ReferenceGrads:
    """dB = s g^T (x A^T), dA = (s g B)^T x, dx = g W + s (g B) A (arXiv 2106.09685), per segment; W is frozen."""
    x, g = x_TD.float(), dy_TO.float()
    dx_TD = g @ w_OD.float()
    da, db = [], []
    for seg in segments:
        rows = slice(seg.start, seg.end)
        keep = torch.ones_like(x[rows]) if seg.keep_TD is None else seg.keep_TD.float()
        xs = x[rows] * keep
        dh = seg.scale * (g[rows] @ seg.b_OR.float())
        da.append(dh.t() @ xs)
        db.append(seg.scale * g[rows].t() @ (xs @ seg.a_RD.float().t()))
        dx_TD[rows] += (dh @ seg.a_RD.float()) * keep
    return ReferenceGrads(dx_TD, da, db)
