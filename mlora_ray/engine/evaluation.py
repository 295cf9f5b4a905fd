"""Forward-only losses: of an adapter, or of the bare base, on given rows; many packed together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from mlora_ray.data.batch_sampler import cut
from mlora_ray.data.tokenized_rows import Rows
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import Base
from mlora_ray.engine.executor import run_row
from mlora_ray.engine.packed_row import Request, Scratch, padded_rows
from mlora_ray.types import JobSpec

NANO_BATCH_TOKENS = 512  # of one evaluation nano-batch


class _Piece(NamedTuple):
    owner: int
    request: Request


def evaluate(
    base: Base, requests: list[tuple[AdapterState | None, JobSpec | None, Rows]], token_budget: int
) -> list[float]:
    """Mean loss per target token of each (adapter or None, its spec, rows). nan where the rows have no target."""
    sums, counts = np.zeros(len(requests)), np.zeros(len(requests), np.int64)
    held: list[_Piece] = []
    scratches: dict[int, Scratch] = {}
    tokens = 0

    def flush() -> None:
        nonlocal held, tokens
        if held:
            for piece, result in zip(held, run_row(base, [p.request for p in held], has_backward=False), strict=True):
                sums[piece.owner] += result.loss_sum
                counts[piece.owner] += result.num_targets
        held, tokens = [], 0

    for owner, (state, _, rows) in enumerate(requests):
        if state is not None and id(state) not in scratches:
            if tokens:
                flush()  # at most one row's adapters have a compute copy at a time
            scratches = {id(state): _forward_scratch(base, state)}
        scratch = scratches[id(state)] if state is not None else None
        for picked in cut(list(range(rows.num_rows)), rows.lengths, NANO_BATCH_TOKENS):
            request = Request(scratch, rows, picked, 0.0)
            if held and tokens + padded_rows(request.num_tokens) > token_budget:
                flush()
            held.append(_Piece(owner, request))
            tokens += padded_rows(request.num_tokens)
    flush()
    return [float(s / c) if c else float("nan") for s, c in zip(sums, counts, strict=True)]


def _forward_scratch(base: Base, state: AdapterState) -> Scratch:
    weights = state.weights if base.dtype == torch.float32 else state.weights.to(base.dtype)
    return Scratch(state.layout, weights, None)
