"""Peak memory of a process that trains, measured in fresh processes: a peak only ever grows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mlora_ray.errors import MloraError
from mlora_ray.profiling.fit import relative_fit
from mlora_ray.profiling.measure import child_environment
from mlora_ray.profiling.workload import Shape
from mlora_ray.types import BaseSpec, MemoryModel

CHILD_TIMEOUT_S = 1800.0
LONG, SHORT = 960, 128  # tokens of a sequence; attention keeps the scores of both


class Peak(NamedTuple):
    """One process: what it trained and the most it held while it did. Bytes."""

    shape: Shape  # all of it in one packed row
    row_tokens: int  # of a sequence
    base_bytes: int
    own_bytes: int  # states, and gradients and compute copies of the open steps
    load_peak_bytes: int  # before the first step
    peak_bytes: int


class Held(NamedTuple):
    """One process to be measured; `is_held_out` ones check the fit."""

    shape: Shape
    row_tokens: int
    is_held_out: bool = False


def wanted_peaks(token_budget: int, ranks: Sequence[int], is_quick: bool) -> list[Held]:
    """Rows of several sizes, sequences short and long, adapters few and many, small and large; then two held out."""
    low, high = min(ranks), max(ranks)
    half = token_budget // 2
    fitted = [
        Held(Shape(token_budget // 6, 1, low), SHORT),
        Held(Shape(token_budget, 1, low), SHORT),
        Held(Shape(half, 4, high), SHORT),
        Held(Shape(min(LONG, token_budget), 1, low), LONG),
    ]
    more = [Held(Shape(half, 1, low), SHORT), Held(Shape(token_budget, 16, low), SHORT)]
    more.append(Held(Shape(token_budget // 6, 8, high), SHORT))
    checks = [
        Held(Shape(token_budget // 3 * 2, 8, (low + high) // 2), SHORT, is_held_out=True),
        Held(Shape(token_budget // 3, 2, 2 * low), 2 * SHORT, is_held_out=True),
    ]
    return [*fitted, *checks[:1]] if is_quick else [*fitted, *more, *checks]


def measure_peaks(
    base: BaseSpec, threads: int, wanted: Iterable[Held], tell: Callable[[Held, Peak], None]
) -> list[tuple[Held, Peak]]:
    """A process for each. Raises MloraError with what one of them said."""
    out = []
    for one in wanted:
        out.append((one, _in_a_process(base, threads, one)))
        tell(*out[-1])
    return out


def _in_a_process(base: BaseSpec, threads: int, one: Held) -> Peak:
    asked = json.dumps([base.name, base.path, base.dtype, threads, *one.shape, one.row_tokens])
    command = [sys.executable, "-m", "mlora_ray.profiling.child_process", asked]
    done = subprocess.run(
        command, env=child_environment(threads), capture_output=True, text=True, timeout=CHILD_TIMEOUT_S
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MloraError(f"the process that trains {one.shape} for its peak memory failed: {last}")
    return Peak(one.shape, one.row_tokens, *json.loads(done.stdout.splitlines()[-1]))


def fit_memory(peaks: Sequence[Peak], base: str) -> MemoryModel:
    """Least squares of the relative errors of `MemoryModel.peak_bytes`, no term below zero."""
    terms = [(1.0, p.shape.tokens, p.shape.tokens * kept_length(p.row_tokens), p.own_bytes) for p in peaks]
    held = np.asarray([p.peak_bytes - p.base_bytes for p in peaks], float)
    fixed, token, score, share = relative_fit(np.asarray(terms, float), held).tolist()
    return MemoryModel(base=base, fixed_bytes=int(fixed), token_bytes=token, score_bytes=score, state_share=share)


def predicted_bytes(model: MemoryModel, peak: Peak) -> int:
    """What the model says of a process."""
    return model.peak_bytes(peak.base_bytes, peak.shape.tokens, kept_length(peak.row_tokens), peak.own_bytes)


def kept_length(row_tokens: int) -> int:
    """Tokens of a sequence that count for `score_bytes`: padded as attention pads, 0 where it keeps no scores."""
    from mlora_ray.kernels.attention import BUCKET, FLASH_FROM

    padded = -(-row_tokens // BUCKET) * BUCKET
    return padded if padded < FLASH_FROM else 0
