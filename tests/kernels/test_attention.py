"""Packed attention, both kernels, against plain attention of each sequence by itself, gradients included."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mlora_ray.kernels import native
from mlora_ray.kernels.attention import FLASH_FROM, SegmentAttention, index_sequences
from mlora_ray.kernels.packed_attention import HeadShape, PackedRotaryAttention

WIDTH = 16
SCALE = 0.4
LIMITS = {torch.float32: 3e-6, torch.bfloat16: 3e-2}
LENGTHS = {
    "short": [1, 2, 3, 5, 1],
    "buckets": [31, 32, 33, 64, 70, 7, 32],
    "one": [45],
    "long": [FLASH_FROM + 5, 9],
}
needs_native = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")


class Qkv(NamedTuple):
    q: Tensor  # [H, T, E]
    k: Tensor  # [K, T, E]
    v: Tensor  # [K, T, E]


def offsets_of(lengths: list[int]) -> list[int]:
    return torch.tensor([0, *lengths]).cumsum(0).tolist()


def plain(x: Qkv, offsets: list[int], window: int, softcap: float) -> Tensor:
    """Each sequence by itself, in fp32: softmax(softcap(scale q k^T) + mask) v. [H, T, E]"""
    groups = x.q.shape[0] // x.k.shape[0]
    outs = []
    for start, end in itertools.pairwise(offsets):
        q, k, v = (t[:, start:end].float() for t in x)
        scores = q @ k.repeat_interleave(groups, 0).transpose(1, 2) * SCALE
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        ago = torch.arange(end - start)[:, None] - torch.arange(end - start)
        hidden = (ago < 0) | (ago >= window) if window else ago < 0
        outs.append(scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v.repeat_interleave(groups, 0))
    return torch.cat(outs, dim=1)


def random_qkv(heads: int, kv_heads: int, tokens: int, dtype: torch.dtype) -> Qkv:
    return Qkv(*(torch.randn(n, tokens, WIDTH).to(dtype).requires_grad_() for n in (heads, kv_heads, kv_heads)))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-20))


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(
    ("kv_heads", "groups", "window", "softcap"),
    [(4, 1, 0, 0.0), (2, 3, 0, 0.0), (1, 4, 6, 0.0), (2, 2, 0, 1.5), (2, 2, 33, 1.5)],
)
def test_segment_attention(
    kv_heads: int, groups: int, window: int, softcap: float, lengths: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    offsets = offsets_of(LENGTHS[lengths])
    x = random_qkv(kv_heads * groups, kv_heads, offsets[-1], dtype)
    index = index_sequences(list(itertools.pairwise(offsets)), offsets[-1], torch.device("cpu"))
    out = SegmentAttention.apply(*x, index, SCALE, window, softcap)
    expected = plain(x, offsets, window, softcap)
    dout = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, x, dout)
    got = torch.autograd.grad(out, x, dout.to(dtype))
    assert relative(out, expected) <= LIMITS[dtype]
    for name, mine, theirs in zip("qkv", got, wanted, strict=True):
        assert relative(mine, theirs) <= LIMITS[dtype], name


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary over halves, as transformers' Llama does it. x [N, T, E], cos and sin [T, E]."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def rotary(offsets: list[int]) -> tuple[Tensor, Tensor]:
    positions = torch.cat([torch.arange(b - a) for a, b in itertools.pairwise(offsets)])
    angles = positions[:, None] * 100.0 ** -(torch.arange(0, WIDTH, 2) / WIDTH)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


@needs_native
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("kv_heads", "groups", "window"), [(4, 1, 0), (2, 3, 0), (1, 4, 6), (2, 2, 33)])
def test_packed_rotary_attention(kv_heads: int, groups: int, window: int, lengths: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    offsets = offsets_of(LENGTHS[lengths])
    x = random_qkv(kv_heads * groups, kv_heads, offsets[-1], dtype)
    cos, sin = (t.to(dtype) for t in rotary(offsets))
    qkv = torch.cat([t.detach().transpose(0, 1).reshape(offsets[-1], -1) for t in x], dim=1).requires_grad_()
    index = index_sequences(list(itertools.pairwise(offsets)), offsets[-1], torch.device("cpu"))
    out = PackedRotaryAttention.apply(qkv, cos, sin, index, HeadShape(kv_heads, groups, WIDTH, SCALE, window))

    exact = Qkv(*(t.detach().float().requires_grad_() for t in x))
    turned = Qkv(rotated(exact.q, cos.float(), sin.float()), rotated(exact.k, cos.float(), sin.float()), exact.v)
    expected = plain(turned, offsets, window, 0.0)
    dout = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, exact, dout)
    by_token = dout.transpose(0, 1).reshape(offsets[-1], -1).to(dtype)
    (got,) = torch.autograd.grad(out, qkv, by_token)
    assert relative(out, expected.transpose(0, 1).reshape(offsets[-1], -1)) <= LIMITS[dtype]
    joined = torch.cat([t.transpose(0, 1).reshape(offsets[-1], -1) for t in wanted], dim=1)
    assert relative(got, joined) <= LIMITS[dtype]


@needs_native
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("kernel", ["segment", "packed"])
def test_a_sequence_s_bits_are_its_own(kernel: str, poison: float, dtype: torch.dtype) -> None:
    """Alone, elsewhere, and beside poisoned sequences of its own bucket and of others: equal bits, gradients too."""
    torch.manual_seed(0)
    length, kv_heads, groups = 27, 2, 2
    mine, dmine = torch.randn(length, 8 * WIDTH).to(dtype), torch.randn(length, 4 * WIDTH).to(dtype)
    results = []
    for before, after in (([], []), ([5, 30], []), ([40], [27, 32, 1])):
        lengths = [*before, length, *after]
        offsets = offsets_of(lengths)
        at = slice(sum(before), sum(before) + length)
        qkv = torch.full((offsets[-1], 8 * WIDTH), poison, dtype=dtype)
        dout = torch.full((offsets[-1], 4 * WIDTH), poison, dtype=dtype)
        qkv[at], dout[at] = mine, dmine
        cos, sin = (t.to(dtype) for t in rotary(offsets))
        index = index_sequences(list(itertools.pairwise(offsets)), offsets[-1], torch.device("cpu"))
        qkv.requires_grad_()
        if kernel == "packed":
            out = PackedRotaryAttention.apply(qkv, cos, sin, index, HeadShape(kv_heads, groups, WIDTH, SCALE, 0))
        else:
            heads = qkv.view(-1, 8, WIDTH).transpose(0, 1)
            out = SegmentAttention.apply(heads[:4], heads[4:6], heads[6:], index, SCALE, 0, 0.0)
            out = out.transpose(0, 1).reshape(-1, 4 * WIDTH)
        (grad,) = torch.autograd.grad(out, qkv, dout)
        results.append((out[at].detach(), grad[at]))
    assert torch.isfinite(results[0][1].float()).all()
    for out, grad in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_every_token_is_indexed_once() -> None:
    offsets = offsets_of([1, 64, 33, 32, 7, 64, 95])
    index = index_sequences(list(itertools.pairwise(offsets)), offsets[-1], torch.device("cpu"))
    at = torch.cat([b.at for b in index.buckets])
    assert sorted(at.tolist()) == list(range(offsets[-1]))
    laid = torch.cat([b.rows for b in index.buckets])
    assert torch.equal(laid[index.place], torch.arange(offsets[-1]))
    for bucket in index.buckets:
        assert torch.equal(bucket.rows[bucket.real], bucket.at)
        assert bucket.length % 32 == 0
        assert len(bucket.rows) == bucket.size * bucket.length
