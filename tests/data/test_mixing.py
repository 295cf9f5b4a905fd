"""Weights: whole ones repeat rows, fractions draw some of them by the seed, and nothing else changes a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlora_ray.data.mixing import Mixed, is_drawn, mix
from mlora_ray.data.sources import DataFile
from mlora_ray.data.tokenization import Prepared
from mlora_ray.data.tokenized_rows import Rows, make_rows, rows_sha256
from mlora_ray.errors import InputError, Mistake


def numbered(start: int, num_rows: int, overlong: Mistake | None = None) -> Prepared:
    """Rows that each name themselves: row i is `i + 1` times the token `start + i`."""
    rows = make_rows([([start + i] * (i + 1), [True] * (i + 1)) for i in range(num_rows)])
    return Prepared(rows, num_rows, 0, 0, 0, 0, (), overlong)


def names(rows: Rows) -> list[int]:
    """The token that each row consists of."""
    parts = [rows.tokens[a:b] for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]
    assert all(len(set(part.tolist())) == 1 for part in parts)
    return [int(part[0]) for part in parts]


def mixed(weights: list[float], prepared: list[Prepared], seed: int = 7) -> Mixed:
    files = [DataFile(path=f"/{i}.jsonl", weight=weight) for i, weight in enumerate(weights)]
    return mix(files, prepared, seed)


def test_one_file_of_weight_one_is_untouched() -> None:
    each = numbered(0, 5)
    assert mixed([1.0], [each]).rows is each.rows


def test_whole_weights_repeat_each_row() -> None:
    found = mixed([1.0, 2.0], [numbered(0, 3), numbered(100, 2)])
    assert names(found.rows) == [0, 1, 2, 100, 101, 100, 101]
    assert found.num_taken == [3, 4]


@given(st.integers(1, 40), st.floats(0.05, 4.0), st.integers(0, 2**63 - 1))
def test_a_fraction_draws_rows_without_repeats(num_rows: int, weight: float, seed: int) -> None:
    found = mixed([1.0, weight], [numbered(1000, 1), numbered(0, num_rows)], seed)
    times = np.bincount(names(found.rows)[1:], minlength=num_rows)
    assert set(times) <= {int(weight), int(weight) + 1}
    assert times.sum() == found.num_taken[1] == int(weight) * num_rows + round(weight % 1 * num_rows)
    again = mixed([1.0, weight], [numbered(1000, 1), numbered(0, num_rows)], seed)
    assert rows_sha256(found.rows) == rows_sha256(again.rows)


def test_the_seed_and_the_files_place_decide_the_choice() -> None:
    halves = [names(mixed([0.5, 0.5], [numbered(0, 40), numbered(0, 40)], seed).rows) for seed in (1, 2, 1)]
    assert halves[0] == halves[2] != halves[1]
    assert halves[0][:20] != halves[0][20:]
    assert all(half[:20] == sorted(half[:20]) for half in halves)


def test_only_a_fraction_depends_on_the_seed() -> None:
    assert [is_drawn(weight) for weight in (1.0, 2.0, 0.5, 2.25)] == [False, False, True, True]
    two = [mixed([2.0], [numbered(0, 9)], seed).rows for seed in (1, 2)]
    assert rows_sha256(two[0]) == rows_sha256(two[1])


def test_nothing_left_is_a_mistake() -> None:
    why = Mistake(file="f", field="max_length", value="3", allowed="longer")
    with pytest.raises(InputError) as caught:
        mixed([1.0, 1.0], [numbered(0, 0, why), numbered(0, 0, why)])
    assert caught.value.mistakes == [why, why]
    assert names(mixed([1.0, 1.0], [numbered(0, 0, why), numbered(0, 2)]).rows) == [0, 1]
    with pytest.raises(InputError, match="a weight that takes a row"):
        mixed([0.01], [numbered(0, 3)])
