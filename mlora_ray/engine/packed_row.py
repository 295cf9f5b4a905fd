"""One packed row: nano-batches of many adapters laid end to end.

Each is rounded up to a few more rows of its own (`padded_rows`), never to a neighbour's length: GEMM kernels are made
for each new shape (0.8 to 2 ms of oneDNN on a Xeon, against 30 us a call), so shapes must come again.

`Request` is the engine's only kind of work: a batch job's requests come from its data cursor, an interactive job's
from its client, an evaluation's from its eval rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlora_ray.data.tokenized_rows import Rows
from mlora_ray.engine.adapter_layout import AdapterLayout, GroupSlot, a_view, b_view
from mlora_ray.engine.site_groups import SiteGroup
from mlora_ray.kernels.attention import SequenceIndex, index_sequences
from mlora_ray.kernels.grouped import Member, Segment


class Scratch:
    """What an adapter needs only while a step of it is open: weights in the compute dtype and a gradient buffer.

    `grad_P` is fp32 [P], or None for a forward-only use. With empty weights it only keeps the gradient buffer.
    """

    def __init__(self, layout: AdapterLayout, weights_P: Tensor, grad_P: Tensor | None) -> None:
        self.layout, self.weights_P, self.grad_P = layout, weights_P, grad_P
        groups = layout.groups if weights_P.numel() else ()
        self.groups = {slot.group: _GroupViews.over(slot, weights_P, grad_P) for slot in groups}


class _GroupViews(NamedTuple):
    a_RD: Tensor
    da_RD: Tensor | None
    scale_R: Tensor | float
    members: tuple[Member, ...]

    @classmethod
    def over(cls, slot: GroupSlot, weights_P: Tensor, grad_P: Tensor | None) -> _GroupViews:
        first = slot.members[0]
        stacked = first._replace(r=slot.num_ranks)
        members = tuple(
            Member(
                m.out_start,
                m.out_start + m.num_out,
                m.r_start,
                m.r_start + m.r,
                b_view(weights_P, m).t(),
                None if grad_P is None else b_view(grad_P, m).t(),
            )
            for m in slot.members
        )
        scale: Tensor | float = first.scale
        if any(m.scale != first.scale for m in slot.members):
            per_rank = [m.scale for m in slot.members for _ in range(m.r)]
            scale = torch.tensor(per_rank, dtype=weights_P.dtype, device=weights_P.device)
        da = None if grad_P is None else a_view(grad_P, stacked)
        return cls(a_view(weights_P, stacked), da, scale, members)


class Request(NamedTuple):
    """One nano-batch: these rows through this adapter (None: the bare base)."""

    scratch: Scratch | None
    rows: Rows
    picked: tuple[int, ...]  # which rows, in order
    weight: float  # of each target's loss in the gradient, 1 / targets of the step; 0 without a backward
    is_first: bool = True  # first nano-batch of its step
    dropout: float = 0.0
    key: tuple[int, int, int] = (0, 0, 0)  # (job seed, step, nano-batch): all its randomness

    @property
    def num_tokens(self) -> int:
        return int(self.rows.lengths[list(self.picked)].sum())


def padded_rows(num_tokens: int) -> int:
    """Packed rows that a nano-batch takes: the next multiple of 16, of 32 past 128, of 64 past 512."""
    quantum = 16 if num_tokens <= 128 else 32 if num_tokens <= 512 else 64
    return -(-num_tokens // quantum) * quantum


class PackedRow(NamedTuple):
    """T rows of S requests, N targets. Request i's rows are `bounds[i]:bounds[i + 1]`, likewise its targets."""

    requests: list[Request]
    bounds: list[int]
    target_bounds: list[int]
    token_ids: Tensor  # int64 [1, T]
    positions: Tensor  # int64 [1, T]
    sequences: SequenceIndex
    predict_N: Tensor  # int64: row whose hidden state predicts the target
    target_N: Tensor  # int64: the token to predict
    weight_N: Tensor  # fp32: weight of its loss


def pack(requests: list[Request], device: torch.device) -> PackedRow:
    """Lay the requests' rows end to end."""
    tokens, positions, predict, target, weight = [], [], [], [], []
    spans: list[tuple[int, int]] = []
    bounds, target_bounds = [0], [0]
    for request in requests:
        rows, at = request.rows, bounds[-1]
        end_row = at + padded_rows(request.num_tokens)
        for i in request.picked:
            start, end = int(rows.offsets[i]), int(rows.offsets[i + 1])
            ids = rows.tokens[start:end]
            hit = np.flatnonzero(rows.is_target[start + 1 : end])  # token h + 1 is a target: row h predicts it
            tokens.append(ids)
            positions.append(np.arange(end - start))
            predict.append(at + hit)
            target.append(ids[hit + 1])
            spans.append((at, at + end - start))
            at += end - start
        tokens.append(np.zeros(end_row - at, np.int64))
        positions.append(np.zeros(end_row - at, np.int64))
        bounds.append(end_row)
        count = sum(len(t) for t in target)
        weight.append(np.full(count - target_bounds[-1], request.weight, np.float32))
        target_bounds.append(count)

    def joined(parts: list[np.ndarray], dtype: type = np.int64) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(dtype)).to(device)

    index = index_sequences(spans, bounds[-1], device)
    return PackedRow(
        requests,
        bounds,
        target_bounds,
        joined(tokens)[None],
        joined(positions)[None],
        index,
        joined(predict),
        joined(target),
        joined(weight, np.float32),
    )


class RowContext:
    """What the replaced modules of one base need to know of the row that runs through them now."""

    def __init__(self, device: torch.device, tile: int) -> None:
        self.tile = tile
        self.row: PackedRow | None = None
        self.has_backward = False
        self.anchor = torch.zeros((), device=device, requires_grad=True)  # makes adapted outputs need a gradient

    def segments_of(self, group: SiteGroup) -> list[Segment]:
        """The current row's segments at one site group: only adapters that have it."""
        if self.row is None:
            return []
        out = []
        for i, request in enumerate(self.row.requests):
            views = request.scratch.groups.get(group.number) if request.scratch else None
            if views is None:
                continue
            start, end = self.row.bounds[i], self.row.bounds[i + 1]
            keep = None
            if request.dropout and self.has_backward:
                keep = keep_mask(
                    (*request.key, group.number),
                    (end - start, group.num_in),
                    request.dropout,
                    views.a_RD,
                )
            out.append(
                Segment(start, end, views.a_RD, views.da_RD, views.scale_R, views.members, request.is_first, keep)
            )
        return out


def keep_mask(key: tuple[int, ...], shape: tuple[int, int], p: float, like: Tensor) -> Tensor:
    """Dropout mask over 1 - p, a function of `key` alone (seed, step, nano-batch, site group), in `like`'s dtype.

    On the CPU 16-bit draws of a counter-based stream: p is exact to 1 / 65,536.
    """
    if like.device.type == "cpu":
        words = np.random.SeedSequence(key).generate_state(2, np.uint64)
        draws = np.random.Generator(np.random.SFC64(words)).integers(0, 1 << 16, shape, np.uint16)
        kept = torch.from_numpy(draws >= np.uint16(round(p * 65536)))
    else:
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator(device=like.device).manual_seed(seed)
        kept = torch.rand(shape, generator=generator, device=like.device) >= p
    return kept.to(like.dtype).mul_(1.0 / (1.0 - p))
