"""Fits from points that a known model made: the model comes back."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.profiling.fit import Point, Room, fit_step_time, fitted_s, parts_of, relative_fit
from mlora_ray.profiling.memory import Peak, fit_memory, kept_length, predicted_bytes, wanted_peaks
from mlora_ray.profiling.timing import grid
from mlora_ray.profiling.workload import Shape, group_jobs
from mlora_ray.types import BaseSpec, MemoryModel

SIZES = (128, 256, 512, 1024, 1536, 2048, 4096, 8192)
SHAPES = grid(SIZES, (1, 2, 4, 8, 16), (8, 64))
KNOWN = StepTimeModel(
    id="known",
    base="b:bfloat16",
    device_type="cpu",
    layer_points=((16.0, 0.7), (128.0, 0.8), (256.0, 1.0), (512.0, 1.8), (1024.0, 3.3), (1536.0, 4.6)),
    floor_s=0.7,
    per_adapter_s=0.05,
    per_rank_s=0.003,
    per_rank_token_s=9e-6,
    token_budget=1536,
    open_ranks=183.0,
)
ROOM = Room(KNOWN.token_budget, KNOWN.open_ranks)
MEMORY = MemoryModel(base="b:bfloat16", fixed_bytes=600 << 20, token_bytes=6e5, score_bytes=570.0, state_share=0.87)


def fit(points: list[Point]) -> StepTimeModel:
    return fit_step_time(points, ROOM, id="fitted", base="b:bfloat16", device_type="cpu")


def test_a_known_model_comes_back() -> None:
    found = fit([Point(s, fitted_s(KNOWN, s)) for s in SHAPES])
    for shape in (*SHAPES, Shape(300, 3, 16), Shape(1500, 5, 32), Shape(6000, 7, 8)):
        assert fitted_s(found, shape) == pytest.approx(fitted_s(KNOWN, shape), rel=0.01)
    for name in ("floor_s", "per_adapter_s", "per_rank_s", "per_rank_token_s"):
        assert getattr(found, name) == pytest.approx(getattr(KNOWN, name), rel=0.01)
    assert (found.token_budget, found.open_ranks) == ROOM


def test_noise_of_a_tenth_moves_the_model_less() -> None:
    rng = np.random.default_rng(3)
    found = fit([Point(s, fitted_s(KNOWN, s) * rng.uniform(0.9, 1.1)) for s in SHAPES])
    off = [abs(fitted_s(found, s) / fitted_s(KNOWN, s) - 1) for s in SHAPES]
    assert max(off) < 0.1
    assert sum(off) / len(off) < 0.03


def test_the_rows_of_a_group_step_are_the_models() -> None:
    """`step_s` splits as `parts_of` does: with costs of an adapter of nothing, a step is parts * row."""
    flat = dataclasses.replace(
        KNOWN, layer_points=((1.0, 1.0), (2.0, 1.0)), floor_s=0.0, per_adapter_s=0.0, per_rank_s=0.0, per_rank_token_s=0
    )
    for shape in SHAPES:
        assert fitted_s(flat, shape) == parts_of(shape, ROOM)
    assert parts_of(Shape(128, 16, 64), ROOM) == 8  # two open steps of rank 64 at a time
    assert parts_of(Shape(128, 1, 512), ROOM) == 1  # one step can always be open


def test_a_point_alone_is_fitted() -> None:
    found = fit([Point(Shape(256, 2, 8), 1.5)])
    assert found.step_s(256, 2, 256 * 8) == pytest.approx(1.5)
    assert found.step_s(512, 2, 512 * 8) >= found.step_s(256, 2, 256 * 8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 12))
def test_no_term_below_zero_and_none_that_would_do_better(seed: int, terms: int, points: int) -> None:
    """Karush, Kuhn and Tucker: the slope is 0 along what is in use and not negative along the rest."""
    rng = np.random.default_rng(seed)
    a, measured = rng.uniform(0, 1, (points, terms)), rng.uniform(0.5, 2, points)
    x = relative_fit(a, measured)
    scaled = a / measured[:, None]
    slope = scaled.T @ (scaled @ x - 1)
    assert (x >= 0).all()
    assert (slope >= -1e-6).all()
    assert np.abs(slope[x > 1e-9]).max(initial=0) < 1e-6


def test_the_fitted_curve_never_falls() -> None:
    """Even where what was measured does."""
    found = fit([Point(Shape(t, n, 8), 1.0 / t + 0.1 * n) for t in SIZES for n in (1, 4)])
    heights = [s for _, s in found.layer_points]
    assert all(b >= a for a, b in itertools.pairwise(heights))


@given(st.integers(1, 16), st.integers(8, 600), st.sampled_from([32, 128, 960]))
def test_a_group_step_has_the_tokens_it_says(num_adapters: int, mine: int, row_tokens: int) -> None:
    shape = Shape(num_adapters * mine + num_adapters // 2, num_adapters, 8)
    jobs = group_jobs(BaseSpec(name="b", path=""), 300, shape, row_tokens, steps=2)
    assert sum(int(rows.offsets[-1]) for _, rows in jobs) == shape.tokens
    for spec, rows in jobs:
        assert spec.train.batch_size == rows.num_rows  # a step takes all of them
        assert rows.lengths.max() <= row_tokens
        assert rows.lengths.max() - rows.lengths.min() <= 1


def made_peak(shape: Shape, row_tokens: int, own_bytes: int, model: MemoryModel = MEMORY) -> Peak:
    peak = Peak(shape, row_tokens, 269_000_000, own_bytes, 0, 0)
    return peak._replace(peak_bytes=predicted_bytes(model, peak))


def test_a_known_memory_model_comes_back() -> None:
    fitted: list[Peak] = []
    held_out: list[Peak] = []
    for one in wanted_peaks(1536, (8, 64), is_quick=False):
        own = one.shape.num_adapters * one.shape.lora_rank * 4_000_000
        (held_out if one.is_held_out else fitted).append(made_peak(one.shape, one.row_tokens, own))
    found = fit_memory(fitted, "b:bfloat16")
    for name in ("fixed_bytes", "token_bytes", "score_bytes", "state_share"):
        assert getattr(found, name) == pytest.approx(getattr(MEMORY, name), rel=0.01)
    assert len(held_out) == 2
    for peak in held_out:
        assert predicted_bytes(found, peak) == pytest.approx(peak.peak_bytes, rel=0.001)


def test_long_sequences_keep_no_scores() -> None:
    assert kept_length(128) == 128
    assert kept_length(961) == 992
    assert kept_length(1024) == 0
    assert math.isclose(MEMORY.peak_bytes(0, 100, 0, 0), MEMORY.fixed_bytes + 100 * MEMORY.token_bytes)
