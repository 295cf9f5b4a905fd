"""Grouped LoRA over one packed row: base GEMM once over all tokens, LoRA per segment.

A site group is the linears that read the same input (q, k, v; gate, up): their A matrices are stacked, so each
segment shrinks once. Gradients are added straight into the adapter's flat fp32 buffer.
Cost follows sum(tokens_i * lora_rank_i): no padding to a neighbour, no state of size adapters^2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlora_ray.kernels import native


class Member(NamedTuple):
    """One adapted linear of a site group: columns `[out_start, out_end)` of y, ranks `[r_start, r_end)` of A."""

    out_start: int
    out_end: int
    r_start: int
    r_end: int
    b_RO: Tensor  # B transposed
    db_RO: Tensor | None  # fp32 view of the flat gradient buffer, None without a backward


class Segment(NamedTuple):
    """Rows `[start, end)`: one nano-batch of one adapter at one site group."""

    start: int
    end: int
    a_RD: Tensor  # stacked over the members
    da_RD: Tensor | None
    scale_R: Tensor | float  # alpha / r of each rank row
    members: tuple[Member, ...]
    is_first: bool  # the step's first nano-batch overwrites the gradient buffer, later ones add to it
    keep_TD: Tensor | None  # dropout mask over the segment's rows, already divided by the keep probability


def lora_forward_(y_TO: Tensor, x_TD: Tensor, segments: list[Segment]) -> list[Tensor]:
    """Add every segment's LoRA output to y in place. Returns each segment's scaled shrink h [n, R] for the backward."""
    saved = []
    for seg in segments:
        h_TR = torch.mm(_input(x_TD, seg), seg.a_RD.t()).mul_(seg.scale_R)
        for m in seg.members:
            y_TO[seg.start : seg.end, m.out_start : m.out_end].addmm_(h_TR[:, m.r_start : m.r_end], m.b_RO)
        saved.append(h_TR)
    return saved


def lora_backward_(
    dx_TD: Tensor | None, dy_TO: Tensor, x_TD: Tensor, saved: list[Tensor], segments: list[Segment]
) -> None:
    """Add LoRA's part to dx in place (when there is one) and every dA, dB to its flat gradient buffer.

    dB^T = h^T g, dh = s (g B), dA = dh^T x, dx += dh A; every reduction over tokens stays inside one segment.
    """
    for seg, h_TR in zip(segments, saved, strict=True):
        dh_TR = torch.empty_like(h_TR)
        for m in seg.members:
            g = _rows(dy_TO, seg, m.out_start, m.out_end)
            dh_TR[:, m.r_start : m.r_end] = torch.mm(g, m.b_RO.t())
            _accumulate(m.db_RO, torch.mm(h_TR[:, m.r_start : m.r_end].t(), g), seg.is_first)
        dh_TR.mul_(seg.scale_R)
        _accumulate(seg.da_RD, torch.mm(dh_TR.t(), _input(x_TD, seg)), seg.is_first)
        if dx_TD is None:
            continue
        if seg.keep_TD is None:
            dx_TD[seg.start : seg.end].addmm_(dh_TR, seg.a_RD)
        else:
            dx_TD[seg.start : seg.end].add_(torch.mm(dh_TR, seg.a_RD).mul_(seg.keep_TD))


def _input(x_TD: Tensor, seg: Segment) -> Tensor:
    rows = _rows(x_TD, seg, 0, x_TD.shape[1])
    return rows if seg.keep_TD is None else rows * seg.keep_TD


def _rows(x_TD: Tensor, seg: Segment, lo: int, hi: int) -> Tensor:
    """The segment's rows, copied when they would not start on a cache line: a GEMM may treat such rows differently."""
    view = x_TD[seg.start : seg.end, lo:hi]
    if (x_TD.stride(0) * x_TD.element_size()) % 64 or (lo * x_TD.element_size()) % 64:
        return view.contiguous() if view.stride(0) != hi - lo else view.clone()
    return view


def _accumulate(into: Tensor | None, grad: Tensor, is_first: bool) -> None:
    if into is None:
        return
    if lib := native.for_tensor(grad):
        lib.call("accumulate", grad.dtype, into, grad, grad.numel(), int(is_first))
    elif is_first:
        into.copy_(grad)
    else:
        into.add_(grad)
