"""What a packed row held: what the time it took is judged by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mlora_ray.engine.engine_job import EngineJob
from mlora_ray.engine.packed_row import Request, padded_rows


class RowFacts(NamedTuple):
    """Of one row that ran through."""

    num_tokens: int  # without the rows that only round a nano-batch up
    num_steps: float  # of the adapters: each nano-batch of a step of k counts 1 / k
    rank_tokens: int  # sum of tokens * lora_rank
    room: int  # tokens it could hold
    is_full: bool  # to an eighth, or there was a nano-batch more for which it had no room


def row_facts(picked: list[tuple[EngineJob, Request]], resident: Iterable[EngineJob], room: int) -> RowFacts:
    """`resident`: whoever could have been in it."""
    tokens = [request.num_tokens for _, request in picked]
    left = max(0, room - sum(map(padded_rows, tokens)))
    was_short = any(t.has_work and padded_rows(t.next_tokens) > left for t in resident)
    return RowFacts(
        sum(tokens),
        sum(1.0 / training.num_nano for training, _ in picked),
        sum(n * training.spec.lora.r for n, (training, _) in zip(tokens, picked, strict=True)),
        room,
        was_short or 8 * left <= room,
    )
