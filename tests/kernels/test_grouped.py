"""Grouped LoRA against the reference loop: outputs and gradients, over mixes of segments."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlora_ray.kernels.grouped import Member, Segment, lora_backward_, lora_forward_
from mlora_ray.kernels.reference import ReferenceSegment, lora_backward, lora_forward

WIDTH, OUTS = 48, (32, 16, 24)  # one site group of three linears
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 2e-2}

# rows of each segment; the packed row may go on after the last
MIXES = {
    "identical": [16, 16, 16, 16],
    "distinct": [1, 2, 3, 5, 8, 13],
    "uniform": [9, 12, 7, 10, 11],
    "skewed": [90, 1, 1, 2, 1],
    "single": [37],
    "none": [],
}


class Adapter(NamedTuple):
    """One adapter at the site group: stacked A, B of each adapted member, and their gradients."""

    ranks: tuple[int, ...]  # of each linear, 0: not adapted
    scales: tuple[float, ...]
    a_RD: Tensor
    b_OR: tuple[Tensor, ...]


def make_adapter(ranks: tuple[int, ...], scales: tuple[float, ...], dtype: torch.dtype) -> Adapter:
    a_RD = torch.randn(sum(ranks), WIDTH).to(dtype) / WIDTH**0.5
    return Adapter(ranks, scales, a_RD, tuple(torch.randn(o, r).to(dtype) for o, r in zip(OUTS, ranks, strict=True)))


def make_segment(adapter: Adapter, start: int, end: int, keep_TD: Tensor | None, is_first: bool = True) -> Segment:
    members, out_at, r_at = [], 0, 0
    for out, r, b_OR in zip(OUTS, adapter.ranks, adapter.b_OR, strict=True):
        if r:
            members.append(
                Member(out_at, out_at + out, r_at, r_at + r, b_OR.t().contiguous(), torch.full((r, out), 7.0))
            )
        out_at, r_at = out_at + out, r_at + r
    per_rank = [s for s, r in zip(adapter.scales, adapter.ranks, strict=True) for _ in range(r)]
    scale = per_rank[0] if len(set(per_rank)) == 1 else torch.tensor(per_rank, dtype=adapter.a_RD.dtype)
    da_RD = torch.full((sum(adapter.ranks), WIDTH), 7.0)
    return Segment(start, end, adapter.a_RD, da_RD, scale, tuple(members), is_first, keep_TD)


def check(mix: list[int], tail: int, adapters: list[Adapter], dtype: torch.dtype, dropout: float = 0.0) -> None:
    """Forward and backward of a packed row, and of the reference for each linear of the group."""
    tokens = sum(mix) + tail
    x_TD, dy_TO = torch.randn(tokens, WIDTH).to(dtype), torch.randn(tokens, sum(OUTS)).to(dtype)
    segments, at = [], 0
    for rows, adapter in zip(mix, adapters, strict=True):
        keep = (torch.rand(rows, WIDTH) >= dropout).to(dtype) / (1 - dropout) if dropout else None
        segments.append(make_segment(adapter, at, at + rows, keep))
        at += rows
    y_TO, dx_TD = torch.zeros(tokens, sum(OUTS), dtype=dtype), torch.zeros(tokens, WIDTH, dtype=dtype)
    saved = lora_forward_(y_TO, x_TD, segments)
    lora_backward_(dx_TD, dy_TO, x_TD, saved, segments)

    dx_expected, out_at = torch.zeros(tokens, WIDTH), 0
    for linear, out in enumerate(OUTS):
        reference = [as_reference(s, a, linear) for s, a in zip(segments, adapters, strict=True) if a.ranks[linear]]
        columns = slice(out_at, out_at + out)
        expected = lora_forward(x_TD, torch.zeros(out, WIDTH), None, reference)
        close(y_TO[:, columns], expected, dtype)
        grads = lora_backward(x_TD, torch.zeros(out, WIDTH), dy_TO[:, columns], reference)
        dx_expected += grads.dx_TD
        adapted = [(s, a) for s, a in zip(segments, adapters, strict=True) if a.ranks[linear]]
        for (seg, adapter), da, db in zip(adapted, grads.da, grads.db, strict=True):
            r_at = sum(adapter.ranks[:linear])
            member = next(m for m in seg.members if m.out_start == out_at)
            assert seg.da_RD is not None
            assert member.db_RO is not None
            close(seg.da_RD[r_at : r_at + adapter.ranks[linear]], da, dtype)
            close(member.db_RO.t(), db, dtype)
        out_at += out
    close(dx_TD, dx_expected, dtype)


def as_reference(seg: Segment, adapter: Adapter, linear: int) -> ReferenceSegment:
    r_at = sum(adapter.ranks[:linear])
    a_RD = adapter.a_RD[r_at : r_at + adapter.ranks[linear]]
    return ReferenceSegment(seg.start, seg.end, a_RD, adapter.b_OR[linear], adapter.scales[linear], seg.keep_TD)


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Inputs are of unit size: where products cancel, as in a segment of one token, the error of their last bits stays.

    CPUs add a dot product up in different orders: such a result was 9e-7 off on one, within 3e-7 on another.
    """
    off, size = float((got.float() - expected).norm()), float(expected.norm())
    assert off <= LIMITS[dtype] * size + 2 * torch.finfo(torch.float32).eps * expected.numel() ** 0.5


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("mix", MIXES)
def test_mixes(mix: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ranks = [1, 3, 8, 16, 33, 64]
    adapters = [
        make_adapter((ranks[i % 6], ranks[(i + 2) % 6], ranks[(i + 4) % 6]), (2.0, 0.5, 1.0), dtype)
        for i in range(len(MIXES[mix]))
    ]
    for tail in (0, 5):
        check(MIXES[mix], tail, adapters, dtype)


@given(
    mix=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    tail=st.integers(0, 9),
    ranks=st.lists(st.tuples(*[st.integers(0, 64)] * 3).filter(any), min_size=6, max_size=6),
    scales=st.tuples(*[st.sampled_from([0.125, 1.0, 2.0, 16.0])] * 3),
    dropout=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 1 << 16),
)
@settings(max_examples=40, deadline=None)
def test_any_mix(
    mix: list[int],
    tail: int,
    ranks: list[tuple[int, ...]],
    scales: tuple[float, ...],
    dropout: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    adapters = [make_adapter(ranks[i], scales, torch.float32) for i in range(len(mix))]
    check(mix, tail, adapters, torch.float32, dropout)


def test_reference_gradients_are_autograd_s() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(12, 10, requires_grad=True), torch.randn(7, 10)
    a, b = torch.randn(3, 10, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    keep = (torch.rand(8, 10) > 0.3) / 0.7
    segments = [ReferenceSegment(2, 10, a, b, 1.5, keep)]
    y, dy = lora_forward(x, w, torch.randn(7), segments), torch.randn(12, 7)
    expected = torch.autograd.grad(y, [x, a, b], dy)
    with torch.no_grad():
        got = lora_backward(x, w, dy, segments)
    for mine, autograd in zip([got.dx_TD, got.da[0], got.db[0]], expected, strict=True):
        torch.testing.assert_close(mine, autograd)


@pytest.mark.parametrize("dtype", LIMITS)
def test_later_nano_batches_add_up(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    adapter = make_adapter((4, 4, 4), (1.0, 1.0, 1.0), dtype)
    x_TD, dy_TO = torch.randn(20, WIDTH).to(dtype), torch.randn(20, sum(OUTS)).to(dtype)
    first = make_segment(adapter, 0, 8, None)
    parts = [first, first._replace(start=8, end=20, is_first=False)]
    y_TO = torch.zeros(20, sum(OUTS), dtype=dtype)
    lora_backward_(None, dy_TO, x_TD, lora_forward_(y_TO, x_TD, parts), parts)
    whole = make_segment(adapter, 0, 20, None)
    lora_backward_(None, dy_TO, x_TD, lora_forward_(torch.zeros_like(y_TO), x_TD, [whole]), [whole])
    assert first.da_RD is not None
    assert whole.da_RD is not None
    close(first.da_RD, whole.da_RD, dtype)
    for mine, other in zip(first.members, whole.members, strict=True):
        assert mine.db_RO is not None
        assert other.db_RO is not None
        close(mine.db_RO, other.db_RO, dtype)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_segment_s_bits_are_its_own(poison: float, dtype: torch.dtype, threads: int) -> None:
    """The same rows at another place, beside other segments and a poisoned one: equal bits, gradients too."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        adapter, other = (make_adapter(ranks, (2.0, 1.0, 1.0), dtype) for ranks in ((5, 16, 3), (8, 8, 8)))
        other.a_RD.fill_(poison)
        x_TD, dy_TO = torch.randn(33, WIDTH).to(dtype), torch.randn(33, sum(OUTS)).to(dtype)
        results = []
        for start, behind in ((0, 0), (3, 11), (64, 200)):
            tokens = start + 33 + behind
            x, dy = torch.full((tokens, WIDTH), poison).to(dtype), torch.full((tokens, sum(OUTS)), poison).to(dtype)
            x[start : start + 33], dy[start : start + 33] = x_TD, dy_TO
            mine = make_segment(adapter, start, start + 33, None)
            segments = [make_segment(other, 0, start, None), mine] if start else [mine]
            y, dx = torch.zeros(tokens, sum(OUTS), dtype=dtype), torch.zeros(tokens, WIDTH, dtype=dtype)
            lora_backward_(dx, dy, x, lora_forward_(y, x, segments), segments)
            held = [y[start : start + 33], dx[start : start + 33], mine.da_RD, *(m.db_RO for m in mine.members)]
            results.append([t.clone() for t in held if t is not None])
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))
    finally:
        torch.set_num_threads(before)
