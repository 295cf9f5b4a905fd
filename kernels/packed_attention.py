"""Causal attention straight from the joined q|k|v rows of a packed row: rotary, bucketing and softmax fused (CPU).

Same layout and rules as attention.py, which serves every other architecture and device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlora_ray.kernels import native
from mlora_ray.kernels.attention import FLASH_FROM, Bucket, SequenceIndex, flash, flash_backward


class HeadShape(NamedTuple):
    kv_heads: int
    groups: int  # query heads of one key head
    width: int
    scale: float
    window: int  # sliding window, 0: none


class PackedRotaryAttention(torch.autograd.Function):
    """qkv [T, (H + 2 K) E], cos and sin [T, E] -> [T, H E]; sequences as `SequenceIndex` says."""

    @staticmethod
    def forward(ctx, qkv: Tensor, cos: Tensor, sin: Tensor, index: SequenceIndex, shape: HeadShape) -> Tensor:
        lib = native.for_tensor(qkv)
        assert lib is not None
        cos, sin = cos.to(qkv.dtype).contiguous(), sin.to(qkv.dtype).contiguous()
        out = qkv.new_zeros(qkv.shape[0], shape.kv_heads * shape.groups * shape.width)
        saved = []
        for bucket in index.buckets:
            q, k, v = _empty_heads(qkv, bucket, shape)
            sizes = (bucket.size, bucket.length, shape.kv_heads, shape.groups, shape.width)
            lib.call("rotary_gather", qkv.dtype, qkv, cos, sin, bucket.rows, q, k, v, *sizes)
            heads, probs = _attend(lib, q, k, v, bucket.length, shape)
            lib.call("heads_scatter", qkv.dtype, heads, bucket.real, bucket.at, out, len(bucket.at), *sizes)
            saved += [q, k, v, probs]
        ctx.save_for_backward(cos, sin, *saved)
        ctx.index, ctx.shape, ctx.qkv_shape = index, shape, qkv.shape
        return out

    @staticmethod
    def backward(ctx, dout: Tensor):  # type: ignore[override]
        lib = native.for_tensor(dout)
        assert lib is not None
        cos, sin, *saved = ctx.saved_tensors
        shape, dout = ctx.shape, dout.contiguous()
        dqkv = dout.new_zeros(ctx.qkv_shape)
        for i, bucket in enumerate(ctx.index.buckets):
            q, k, v, probs = saved[4 * i : 4 * i + 4]
            sizes = (bucket.size, bucket.length, shape.kv_heads, shape.groups, shape.width)
            dheads = torch.zeros_like(q)
            lib.call("heads_gather", q.dtype, dout, bucket.real, bucket.at, dheads, len(bucket.at), *sizes)
            grads = _attend_backward(lib, dheads, q, k, v, probs, bucket.length, shape)
            lib.call("rotary_scatter", q.dtype, *grads, cos, sin, bucket.real, bucket.at, dqkv, len(bucket.at), *sizes)
        return dqkv, None, None, None, None


def _attend(
    lib: native.Native, q: Tensor, k: Tensor, v: Tensor, length: int, shape: HeadShape
) -> tuple[Tensor, Tensor]:
    """Outputs in bucket layout, and the probabilities (none are kept for long sequences)."""
    if length >= FLASH_FROM and not shape.window:
        return flash(q, k, v, length, shape.groups, shape.scale).contiguous(), q.new_empty(0)
    probs = torch.bmm(q, k.transpose(1, 2))
    lib.call("causal_softmax", q.dtype, probs, shape.scale, shape.window, probs.numel() // length, length)
    return torch.bmm(probs, v), probs


def _attend_backward(
    lib: native.Native, do: Tensor, q: Tensor, k: Tensor, v: Tensor, probs: Tensor, length: int, shape: HeadShape
) -> tuple[Tensor, Tensor, Tensor]:
    if not probs.numel():
        dq, dk, dv = flash_backward(do, q, k, v, length, shape.groups, shape.scale)
        return dq.contiguous(), dk.contiguous(), dv.contiguous()
    dv = torch.bmm(probs.transpose(1, 2), do)
    ds = torch.bmm(do, v.transpose(1, 2))
    lib.call("causal_softmax_back", q.dtype, ds, probs, shape.scale, probs.numel() // length, length)
    return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), dv


def _empty_heads(qkv: Tensor, bucket: Bucket, shape: HeadShape) -> tuple[Tensor, Tensor, Tensor]:
    """q [K * size, groups * length, E], k and v [K * size, length, E]."""
    matrices = shape.kv_heads * bucket.size
    k = qkv.new_empty(matrices, bucket.length, shape.width)
    return qkv.new_empty(matrices, shape.groups * bucket.length, shape.width), k, torch.empty_like(k)
