"""Several files as the rows of one job: each row of a file as many times as the file's weight says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlora_ray.data.sources import DataFile
from mlora_ray.data.tokenization import Prepared
from mlora_ray.data.tokenized_rows import Rows, join_rows, take_rows
from mlora_ray.errors import InputError, Mistake

CHOICES = 2**63  # above every data pass: which rows are taken and their order are drawn apart


class Mixed(NamedTuple):
    """The rows of all files, in the files' order, and how many of each file they are."""

    rows: Rows
    num_taken: list[int]


def is_drawn(weight: float) -> bool:
    """Whether the seed decides which rows a file of this weight gives."""
    return weight % 1 != 0


def mix(files: Sequence[DataFile], prepared: Sequence[Prepared], seed: int) -> Mixed:
    """Raises InputError where no row is left."""
    parts: list[Rows] = []
    for number, (file, each) in enumerate(zip(files, prepared, strict=True)):
        index = _taken(each.rows.num_rows, file.weight, seed, number)
        parts.append(each.rows if file.weight == 1 else take_rows(each.rows, index))
    num_taken = [part.num_rows for part in parts]
    if not sum(num_taken):
        lost = [each.overlong for each in prepared if each.overlong]
        raise InputError(lost or [_none_taken(file) for file in files])
    return Mixed(parts[0] if len(parts) == 1 else join_rows(parts), num_taken)


def _taken(num_rows: int, weight: float, seed: int, number: int) -> np.ndarray:
    """Rows of file `number` in one data pass: each `weight` times, a fraction by a choice without repeats."""
    times, fraction = divmod(weight, 1)
    key = np.array([seed, CHOICES + number], np.uint64)  # a list of numbers this large would be rounded to floats
    order = np.random.Generator(np.random.Philox(key=key)).permutation(num_rows)
    chosen = np.sort(order[: round(fraction * num_rows)])
    return np.concatenate([np.tile(np.arange(num_rows), int(times)), chosen])


def _none_taken(file: DataFile) -> Mistake:
    return Mistake(file=str(file), field="weight", value=f"{file.weight:g}", allowed="a weight that takes a row")
