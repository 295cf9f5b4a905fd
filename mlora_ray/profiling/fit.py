"""From measured points to the models, by least squares of the relative errors with no negative term."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.profiling.workload import Shape

LEAST_S = 1e-9  # a profile's times are above zero


class Point(NamedTuple):
    """A measured group step."""

    shape: Shape
    seconds: float


class Room(NamedTuple):
    """What the engine was given: it decides how many packed rows a group step takes."""

    token_budget: int
    open_ranks: float


def fit_step_time(points: Sequence[Point], room: Room, *, id: str, base: str, device_type: str) -> StepTimeModel:
    """The model of `points`. Its curve has a knot at every size of a row that was measured whole.

    Unknown are the time at the smallest row, which is the floor, what each knot adds to the one before it, and the
    three costs of an adapter: all at least 0, so that a longer step never takes less.
    """
    parts = [parts_of(p.shape, room) for p in points]
    at = np.asarray([p.shape.tokens / n for p, n in zip(points, parts, strict=True)])
    whole = {float(p.shape.tokens) for p, n in zip(points, parts, strict=True) if n == 1}
    knots = sorted({float(at.min()), float(at.max())} | whole)
    if len(knots) < 2:
        knots.append(knots[0] * 2)
    steps = np.stack([np.clip((at - a) / (b - a), 0.0, 1.0) for a, b in itertools.pairwise(knots)], axis=1)
    curve = np.asarray(parts)[:, None] * np.column_stack([np.ones(len(at)), steps])
    own = [(s.num_adapters, s.num_adapters * s.lora_rank, s.tokens * s.lora_rank) for s, _ in points]
    found = relative_fit(np.column_stack([curve, np.asarray(own, float)]), np.asarray([p.seconds for p in points]))
    heights = np.maximum(np.cumsum(found[: len(knots)]), LEAST_S)
    per_adapter_s, per_rank_s, per_rank_token_s = found[len(knots) :].tolist()
    return StepTimeModel(
        id=id,
        base=base,
        device_type=device_type,
        layer_points=tuple(zip(knots, heights.tolist(), strict=True)),
        floor_s=float(heights[0]),
        per_adapter_s=per_adapter_s,
        per_rank_s=per_rank_s,
        per_rank_token_s=per_rank_token_s,
        token_budget=room.token_budget,
        open_ranks=room.open_ranks,
    )


def parts_of(shape: Shape, room: Room) -> int:
    """Packed rows of a group step: past the token budget, and where not all steps can be open at a time."""
    at_once = max(1, int(room.open_ranks / shape.lora_rank))
    return max(math.ceil(shape.tokens / room.token_budget), math.ceil(shape.num_adapters / at_once))


def fitted_s(model: StepTimeModel, shape: Shape) -> float:
    """What the model says of a point."""
    return model.step_s(shape.tokens, shape.num_adapters, shape.tokens * shape.lora_rank)


def relative_fit(terms_NK: np.ndarray, measured_N: np.ndarray) -> np.ndarray:
    """x [K] >= 0 that minimises the sum of ((terms x - measured) / measured)^2: Lawson and Hanson's NNLS, 1974."""
    scaled = terms_NK / measured_N[:, None]
    size = np.linalg.norm(scaled, axis=0)
    size[size == 0] = 1.0
    a, b = scaled / size, np.ones(len(measured_N))
    x = np.zeros(a.shape[1])
    is_free = np.zeros(a.shape[1], bool)
    for _ in range(10 * a.shape[1]):
        slope = a.T @ (b - a @ x)
        slope[is_free] = -math.inf
        if slope.max() <= 1e-10:
            break
        is_free[int(slope.argmax())] = True
        x = _solve_free(a, b, x, is_free)
    return x / size


def _solve_free(a: np.ndarray, b: np.ndarray, x: np.ndarray, is_free: np.ndarray) -> np.ndarray:
    """Least squares over the free terms; those that would go below zero are fixed at it (mutates `is_free`)."""
    while True:
        wanted = np.zeros_like(x)
        wanted[is_free] = np.linalg.lstsq(a[:, is_free], b, rcond=None)[0]
        below = is_free & (wanted <= 0)
        if not below.any():
            return wanted
        share = (x[below] / np.maximum(x[below] - wanted[below], 1e-300)).min()
        x = x + share * (wanted - x)
        is_free &= x > 1e-12
        x[~is_free] = 0.0
