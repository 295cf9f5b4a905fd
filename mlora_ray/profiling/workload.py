"""What is measured: groups of equal adapters on made-up rows, through the real engine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlora_ray.data.tokenized_rows import Rows, make_rows
from mlora_ray.types import BaseSpec, JobSpec, LoraSpec, RowsRef, TrainSpec

SEED = 7
_NO_REF = RowsRef(
    uri="", sha256="", source="", num_rows=0, num_tokens=0, num_target_tokens=0, num_truncated=0, max_row_tokens=0
)


class Shape(NamedTuple):
    """A group: `num_adapters` of one rank, `tokens` in all in a group step (each takes one optimizer step)."""

    tokens: int
    num_adapters: int
    lora_rank: int


def group_jobs(
    base: BaseSpec, vocabulary: int, shape: Shape, row_tokens: int, steps: int
) -> list[tuple[JobSpec, Rows]]:
    """The group's jobs, all linear layers, AdamW; rows of `row_tokens` tokens at most, two thirds of them targets."""
    rng = np.random.default_rng(SEED)
    jobs = []
    for number, mine in enumerate(shares(shape.tokens, shape.num_adapters)):
        lengths = shares(mine, -(-mine // row_tokens))
        pairs = [(rng.integers(0, vocabulary, n).tolist(), [at > n // 3 for at in range(n)]) for n in lengths]
        train = TrainSpec(
            batch_size=len(lengths), num_epochs=0, max_steps=steps, lr_scheduler_type="constant", seed=number
        )
        spec = JobSpec(
            name=f"{shape.tokens}-{shape.num_adapters}-{shape.lora_rank}-{number}",
            base=base,
            lora=LoraSpec(r=shape.lora_rank),
            train=train,
            train_rows=_NO_REF,
            total_steps=steps,
        )
        jobs.append((spec, make_rows(pairs)))
    return jobs


def shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` as equal as whole numbers can be."""
    return [total // parts + (at < total % parts) for at in range(parts)]
