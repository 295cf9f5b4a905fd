"""The fused CPU kernels against the torch paths, row by row, and rows that hold NaN or Inf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlora_ray.kernels import native
from mlora_ray.kernels.cross_entropy import head_loss
from mlora_ray.kernels.rowwise import (
    rms_norm_backward,
    rms_norm_forward,
    swiglu_backward,
    swiglu_forward,
    tiled_mm,
)

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
ROWS, WIDTHS = 13, (64, 40, 577)

Kernel = Callable[[Tensor, Tensor], list[Tensor]]  # (rows to work on, their upstream gradient) -> results by row


@contextmanager
def torch_paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As with MLORA_NATIVE=0."""
    with monkeypatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        yield


def norm(one_plus: bool) -> Kernel:
    def run(x: Tensor, dy: Tensor) -> list[Tensor]:
        weight = torch.linspace(-1.0, 2.0, x.shape[1]).to(x.dtype)
        y, rstd = rms_norm_forward(x, weight, 1e-5, one_plus)
        return [y, rstd, rms_norm_backward(dy, x, rstd, weight, one_plus)]

    return run


def gated(x: Tensor, dy: Tensor) -> list[Tensor]:
    joined = torch.cat([x, x.flip(1)], dim=1)
    return [swiglu_forward(joined), swiglu_backward(dy, joined)]


def entropy(x: Tensor, dy: Tensor) -> list[Tensor]:
    """The rows are the hidden states; 300 words."""
    head = torch.sin(torch.arange(300 * x.shape[1], dtype=torch.float32)).view(300, -1).to(x.dtype)
    target, weight = torch.arange(len(x)) * 7 % 300, torch.linspace(0.1, 2.0, len(x))
    loss = head_loss(x, head, None, target, weight, tile=8)
    assert loss.dhidden_ND is not None
    forward_only = head_loss(x, head, None, target, None, tile=8)
    assert forward_only.dhidden_ND is None
    return [loss.loss_N, forward_only.loss_N, loss.dhidden_ND]


KERNELS: dict[str, Kernel] = {"norm": norm(False), "one_plus": norm(True), "gated": gated, "entropy": entropy}


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_torch(kernel: str, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, dy = (3 * torch.randn(ROWS, width)).to(dtype), torch.randn(ROWS, width).to(dtype)
    fused = KERNELS[kernel](x, dy)
    with torch_paths(monkeypatch):
        plain = KERNELS[kernel](x, dy)
    for mine, theirs in zip(fused, plain, strict=True):
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
        off = (mine.float() - theirs.float()).norm() / theirs.float().norm()
        assert float(off) <= LIMITS[dtype]


@pytest.mark.parametrize("native_on", [True, False])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_rows_keep_to_themselves(
    poison: float, kernel: str, dtype: torch.dtype, native_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poisoned row changes no bit of another row, and is seen in its own."""
    torch.manual_seed(0)
    x, dy = torch.randn(ROWS, 64).to(dtype), torch.randn(ROWS, 64).to(dtype)
    sick = x.clone()
    sick[4, 9] = poison
    monkeypatch.setattr(native, "library", native.library if native_on else lambda: None)
    clean, dirty = KERNELS[kernel](x, dy), KERNELS[kernel](sick, dy)
    healthy = [i for i in range(ROWS) if i != 4]
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[healthy], after[healthy])
    assert not all(torch.isfinite(t[4].float()).all() for t in dirty)


@pytest.mark.parametrize("native_on", [True, False])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("bias", "softcap", "scale"), [(False, 0.0, 1.0), (True, 0.0, 1.0), (False, 5.0, 0.5)])
def test_cross_entropy(
    bias: bool, softcap: float, scale: float, dtype: torch.dtype, native_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradient of the weighted sum, as torch has them from fp32 logits."""
    monkeypatch.setattr(native, "library", native.library if native_on else lambda: None)
    torch.manual_seed(0)
    hidden, head = torch.randn(21, 48).to(dtype), torch.randn(130, 48).to(dtype)
    bias_V = torch.randn(130).to(dtype) if bias else None
    target, weight = torch.randint(0, 130, (21,)), torch.rand(21)
    got = head_loss(hidden, head, bias_V, target, weight, 8, softcap, scale)
    leaf = hidden.float().requires_grad_()
    logits = leaf @ head.float().t() + (bias_V.float() if bias_V is not None else 0.0)
    logits = logits * scale
    logits = torch.tanh(logits / softcap) * softcap if softcap else logits
    expected = F.cross_entropy(logits, target, reduction="none")
    (wanted,) = torch.autograd.grad((expected * weight).sum(), leaf)
    limit = 1e-5 if dtype == torch.float32 else 3e-2
    assert got.dhidden_ND is not None
    torch.testing.assert_close(got.loss_N, expected, rtol=limit, atol=limit)
    assert float((got.dhidden_ND.float() - wanted).norm() / wanted.norm()) <= limit


def test_cross_entropy_of_no_rows() -> None:
    loss = head_loss(torch.randn(0, 8), torch.randn(9, 8), None, torch.zeros(0, dtype=torch.long), torch.zeros(0), 8)
    assert loss.loss_N.shape == (0,)
    assert loss.dhidden_ND is not None
    assert loss.dhidden_ND.shape == (0, 8)


def test_cross_entropy_of_far_apart_logits() -> None:
    """No overflow: a loss of a thousand is a thousand."""
    hidden = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    loss = head_loss(hidden, torch.eye(2), None, torch.tensor([0, 0]), torch.ones(2), 8)
    assert loss.loss_N.tolist() == [0.0, 1000.0]
    assert loss.dhidden_ND is not None
    assert loss.dhidden_ND.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", [(576, 1536), (64, 96), (70, 33), (80, 64), (257, 40)])
def test_tiled_mm_rows(shape: tuple[int, int], dtype: torch.dtype, threads: int) -> None:
    """The same row at another place, among fewer, more, or poisoned rows: equal bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        x, w = torch.randn(300, shape[0]).to(dtype), torch.randn(*shape).to(dtype)
        whole = tiled_mm(x, w, 128)
        assert float((whole.float() - x.float() @ w.float()).norm() / whole.float().norm()) <= LIMITS[dtype]
        for rows in (slice(0, 1), slice(5, 8), slice(100, 290), slice(7, 200), slice(299, 300)):
            assert torch.equal(tiled_mm(x[rows], w, 128), whole[rows])
        poisoned = x.clone()
        poisoned[::2] = float("nan")
        assert torch.equal(tiled_mm(poisoned, w, 128)[1::2], whole[1::2])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_do_not_depend_on_company_or_threads(kernel: str, dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    try:
        torch.manual_seed(0)
        x, dy = torch.randn(ROWS, 64).to(dtype), torch.randn(ROWS, 64).to(dtype)
        if kernel == "entropy":  # its targets and weights go by the row's place
            return
        torch.set_num_threads(1)
        one = KERNELS[kernel](x, dy)
        torch.set_num_threads(2)
        two, part = KERNELS[kernel](x, dy), KERNELS[kernel](x[5:6], dy[5:6])
        for a, b, c in zip(one, two, part, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a[5:6], c)
    finally:
        torch.set_num_threads(before)
