"""Which rows make up optimizer step s of a job, and how they are cut into nano-batches.

Pure functions of the job's own spec and data (exactness rule E1): a neighbour never changes the cut.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from mlora_ray.types import (
    JobSpec,
    TrainSpec,
)


class StepRows(NamedTuple):
    """The rows of one optimizer step, cut into nano-batches in the order they are summed."""

    data_epoch: float  # data passes finished when the step is done
    nano_batches: tuple[tuple[int, ...], ...]


def steps_per_epoch(train: TrainSpec, num_rows: int) -> int:
    """Optimizer steps of one data pass, as transformers' Trainer counts them (the last may be short)."""
    batches = -(-num_rows // train.batch_size)
    return -(-batches // train.gradient_accumulation_steps)


def total_steps(train: TrainSpec, num_rows: int) -> int:
    """Optimizer steps of the whole job; `max_steps` wins over `num_epochs`, as in TRL."""
    if train.max_steps > 0:
        return train.max_steps
    return max(1, int(np.ceil(train.num_epochs * steps_per_epoch(train, num_rows))))


@functools.lru_cache(maxsize=4096)
def _order(seed: int, data_epoch: int, num_rows: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, data_epoch])).permutation(num_rows)


def rows_of_step(train: TrainSpec, lengths: np.ndarray, step: int, nano_batch_tokens: int) -> StepRows:
    """Rows of step `step` (0-based), shuffled anew each data pass by the job's `data_seed`, or its seed.

    A nano-batch holds consecutive rows of one batch, at most `nano_batch_tokens` tokens or one row.
    """
    num_rows = len(lengths)
    per_epoch = steps_per_epoch(train, num_rows)
    data_epoch, at = divmod(step, per_epoch)
    order = _order(train.seed if train.data_seed is None else train.data_seed, data_epoch, num_rows)
    nano_batches: list[tuple[int, ...]] = []
    for batch in range(train.gradient_accumulation_steps):
        start = (at * train.gradient_accumulation_steps + batch) * train.batch_size
        if start >= num_rows:
            break  # the data pass ends within this step
        nano_batches += cut(order[start : start + train.batch_size].tolist(), lengths, nano_batch_tokens)
    return StepRows((step + 1) / per_epoch, tuple(nano_batches))


def cut(rows: list[int], lengths: np.ndarray, nano_batch_tokens: int) -> list[tuple[int, ...]]:
    """Cut `rows` in order into nano-batches of at most `nano_batch_tokens` tokens, or one row."""
    out: list[tuple[int, ...]] = []
    held: list[int] = []
    tokens = 0
    for row in rows:
        if held and tokens + int(lengths[row]) > nano_batch_tokens:
            out.append(tuple(held))
            held, tokens = [], 0
        held.append(row)
        tokens += int(lengths[row])
    if held:
        out.append(tuple(held))
    return out


def tokens_total(spec: JobSpec) -> int:
    """Tokens of the whole job: exact for whole data passes, else in proportion."""
    per_epoch = steps_per_epoch(spec.train, spec.train_rows.num_rows)
    return math.ceil(spec.train_rows.num_tokens * spec.total_steps / per_epoch)
