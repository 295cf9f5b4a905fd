"""Causal attention per sequence over a packed row: two sequences never share a score matrix.

Sequences are gathered into buckets of equal padded length (a multiple of 32 fixed by the sequence's own length), so
one batched GEMM serves many sequences while each one's bits depend on itself alone. Padding repeats the sequence's own
last token and lies after every real one, where the causal mask hides it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BUCKET = 32  # padded lengths are multiples of this
FLASH_FROM = 1024  # from here scaled_dot_product_attention, which holds no L x L matrix


class Bucket(NamedTuple):
    """`size` sequences padded to `length`, laid end to end."""

    size: int  # sequences
    length: int
    rows: Tensor  # [size * length]: packed row of each place; padding repeats the sequence's last row
    real: Tensor  # [tokens]: places that hold a token
    at: Tensor  # [tokens]: their packed rows


class SequenceIndex(NamedTuple):
    """Where each packed row sits: `place` [T] indexes the buckets' places laid end to end; padding's is past them."""

    buckets: tuple[Bucket, ...]
    place: Tensor


def index_sequences(spans: list[tuple[int, int]], num_rows: int, device: torch.device) -> SequenceIndex:
    """Bucket the sequences, each a span `[start, end)` of the packed row; rows in none of them are padding."""
    by_length: dict[int, list[tuple[int, int]]] = {}
    for start, end in spans:
        by_length.setdefault(-(-(end - start) // BUCKET) * BUCKET, []).append((start, end))
    place = torch.full((num_rows,), sum(length * len(members) for length, members in by_length.items()))
    buckets, base = [], 0
    for padded, members in sorted(by_length.items()):
        starts, ends = torch.tensor(members).unsqueeze(2).unbind(1)
        rows = starts + torch.arange(padded)
        real = (rows < ends).flatten().nonzero().squeeze(1)
        rows = torch.minimum(rows, ends - 1).flatten()
        place[rows[real]] = base + real
        buckets.append(Bucket(len(members), padded, rows.to(device), real.to(device), rows[real].to(device)))
        base += len(members) * padded
    return SequenceIndex(tuple(buckets), place.to(device))


class SegmentAttention(torch.autograd.Function):
    """softmax(scale * q k^T + causal) v per sequence: q [H, T, E], k and v [K, T, E], H = K * groups -> [H, T, E]."""

    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, index: SequenceIndex, scale: float, window: int, softcap: float
    ) -> Tensor:
        kv, tokens, width = k.shape
        groups = q.shape[0] // kv
        outs, saved = [], []
        for bucket in index.buckets:
            qb, kb, vb = _gather(q, bucket, groups), _gather(k, bucket, 1), _gather(v, bucket, 1)
            out, probs = _attend(qb, kb, vb, bucket.length, groups, scale, window, softcap)
            outs.append(_by_head(out, kv, groups, bucket))
            saved += [qb, kb, vb, probs, out]
        ctx.save_for_backward(*saved)
        ctx.index, ctx.shape = index, (kv, groups, tokens, width)
        ctx.scale, ctx.window, ctx.softcap = scale, window, softcap
        return _packed(outs, index)

    @staticmethod
    def backward(ctx, do: Tensor):  # type: ignore[override]
        kv, groups, _, _ = ctx.shape
        saved = ctx.saved_tensors
        grads: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for i, bucket in enumerate(ctx.index.buckets):
            qb, kb, vb, probs, out = saved[5 * i : 5 * i + 5]
            dob = _gather_padded(do, bucket, kv, groups)
            parts = _attend_backward(dob, qb, kb, vb, probs, out, bucket.length, ctx)
            for held, part, per in zip(grads, parts, (groups, 1, 1), strict=True):
                held.append(_by_head(part, kv, per, bucket))
        dq, dk, dv = (_packed(held, ctx.index) for held in grads)
        return dq, dk, dv, None, None, None, None


def _packed(by_bucket: list[Tensor], index: SequenceIndex) -> Tensor:
    """Buckets' places back to packed rows [H, T, E]; padding rows are zero."""
    zero = by_bucket[0].new_zeros(by_bucket[0].shape[0], 1, by_bucket[0].shape[2])
    return torch.cat([*by_bucket, zero], dim=1).index_select(1, index.place)


def _gather(x: Tensor, bucket: Bucket, groups: int) -> Tensor:
    """[K * groups, T, E] -> [K * size, groups * length, E]: the heads of a group become more query rows."""
    heads, _, width = x.shape
    kv = heads // groups
    if groups == 1:
        return x.index_select(1, bucket.rows).view(kv * bucket.size, bucket.length, width)
    picked = x.index_select(1, bucket.rows).view(kv, groups, bucket.size, bucket.length, width)
    return picked.transpose(1, 2).reshape(kv * bucket.size, groups * bucket.length, width)


def _gather_padded(do: Tensor, bucket: Bucket, kv: int, groups: int) -> Tensor:
    """The upstream gradient in bucket layout, exactly zero on padding."""
    width = do.shape[-1]
    padded = do.new_zeros(do.shape[0], bucket.size * bucket.length, width)
    padded.index_copy_(1, bucket.real, do.index_select(1, bucket.at))
    padded = padded.view(kv, groups, bucket.size, bucket.length, width)
    return padded.transpose(1, 2).reshape(kv * bucket.size, groups * bucket.length, width)


def _by_head(x: Tensor, kv: int, groups: int, bucket: Bucket) -> Tensor:
    """[K * size, groups * length, E] -> [K * groups, size * length, E]."""
    width = x.shape[-1]
    x = x.view(kv, bucket.size, groups, bucket.length, width).transpose(1, 2)
    return x.reshape(kv * groups, bucket.size * bucket.length, width)


def _mask(length: int, window: int, device: torch.device) -> Tensor:
    """True where a query may not look: the future, and beyond a sliding window."""
    at = torch.arange(length, device=device)
    ahead = at.unsqueeze(0) > at.unsqueeze(1)
    return ahead if not window else ahead | (at.unsqueeze(1) - at.unsqueeze(0) >= window)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, length: int, groups: int, scale: float, window: int, softcap: float
) -> tuple[Tensor, Tensor]:
    if length >= FLASH_FROM and not softcap and not window:
        return flash(q, k, v, length, groups, scale), q.new_empty(0)
    probs = _probs(q, k, length, groups, scale, window, softcap)
    return torch.bmm(probs, v), probs


def _probs(q: Tensor, k: Tensor, length: int, groups: int, scale: float, window: int, softcap: float) -> Tensor:
    """softmax in fp32, kept in the compute dtype: [K * size, groups * length, length]."""
    scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale)
    if softcap:
        scores = torch.tanh_(scores.div_(softcap)).mul_(softcap)
    scores = scores.view(-1, groups, length, length).masked_fill_(_mask(length, window, q.device), float("-inf"))
    return torch.softmax(scores, dim=-1).to(q.dtype).view(-1, groups * length, length)


def flash(q: Tensor, k: Tensor, v: Tensor, length: int, groups: int, scale: float) -> Tensor:
    """scaled_dot_product_attention of each sequence; key heads are repeated for their group."""
    width = q.shape[-1]
    kg, vg = (x.unsqueeze(1).expand(-1, groups, -1, -1) for x in (k, v))
    out = F.scaled_dot_product_attention(q.view(-1, groups, length, width), kg, vg, is_causal=True, scale=scale)
    return out.reshape(-1, groups * length, width)


def flash_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, length: int, groups: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v by running `flash` again."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        dq, dk, dv = torch.autograd.grad(flash(leaves[0], leaves[1], leaves[2], length, groups, scale), leaves, do)
        return dq, dk, dv


def _attend_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, probs: Tensor, out: Tensor, length: int, ctx
) -> tuple[Tensor, Tensor, Tensor]:
    groups = ctx.shape[1]
    if not probs.numel():
        return flash_backward(do, q, k, v, length, groups, ctx.scale)
    dv = torch.bmm(probs.transpose(1, 2), do)
    ds = torch.bmm(do, v.transpose(1, 2)).float()
    ds.sub_(torch.linalg.vecdot(do.float(), out.float(), dim=-1).unsqueeze_(-1)).mul_(probs)
    if ctx.softcap:
        tanh = torch.tanh_(torch.bmm(q, k.transpose(1, 2)).float().mul_(ctx.scale / ctx.softcap))
        ds.mul_(1.0 - tanh.square_())
    ds = ds.mul_(ctx.scale).to(q.dtype)
    return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), dv
