"""The size of packed rows: found on made machines, not driven by noise, below memory at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.policies.models.row_size_control import (
    MEMORY,
    ROWS,
    SKIPPED,
    STANDS_ROWS,
    TILE,
    RowControl,
    RowMeasurement,
    control_rows,
    start_control,
)

Seconds = Callable[[int], float]  # of a row of so many tokens


def rows(state: RowControl, seconds: Seconds, budget: int = 0) -> Iterator[RowControl]:
    """The state after every full row."""
    while True:
        room = state.next_room
        row = RowMeasurement(
            num_tokens=room,
            seconds=seconds(room),
            room=room,
            is_full=True,
            token_budget=budget or state.token_budget,
        )
        room, why, state = control_rows(state, row)
        assert (room, why) == (state.next_room, state.why)
        yield state


def settled(state: RowControl, seconds: Seconds, max_rows: int = 600) -> RowControl:
    for _, after in zip(range(max_rows), rows(state, seconds), strict=False):
        if not after.probe:
            return after
    raise AssertionError(f"still trying: {state}")


def overhead(tokens: int) -> float:
    """A row costs 0.4 s whatever is in it."""
    return 0.4 + 1e-3 * tokens


def cliff(at: int) -> Seconds:
    """As `overhead`; past `at` tokens a row falls out of a cache."""
    return lambda tokens: overhead(tokens) * (1.0 if tokens <= at else 1.5)


def test_rows_stay_as_large_as_memory_allows_where_that_is_fastest() -> None:
    after = settled(start_control(1536), overhead)
    assert (after.row_tokens, after.why) == (1536, "in rows of 768 a token takes 21% more")


@pytest.mark.parametrize(
    ("budget", "at", "found"), [(1536, 1000, 768), (8192, 4200, 4096), (8192, 3600, 3072), (8192, 1100, 1024)]
)
def test_smaller_rows_are_found_and_grown_back_towards_the_size_that_was_left(budget: int, at: int, found: int) -> None:
    after = settled(start_control(budget), cliff(at))
    assert after.row_tokens == found
    assert after.why.startswith("in rows of ")
    assert after.why.endswith("% more")


def test_what_is_no_better_by_more_than_tau_is_not_chosen() -> None:
    after = settled(start_control(2048), lambda tokens: 1e-3 * tokens * (0.985 if tokens < 2048 else 1.0))
    assert (after.row_tokens, after.why) == (2048, "in rows of 1,024 a token takes 2% less")


def test_a_machine_that_slows_down_meanwhile_changes_no_choice() -> None:
    """Both sizes are tried in turn."""
    factor = 1.0

    def slowing(tokens: int) -> float:
        nonlocal factor
        factor *= 1.05
        return factor * overhead(tokens)

    assert settled(start_control(1536), slowing).row_tokens == 1536


@pytest.mark.parametrize("seed", range(20))
def test_noise_drives_nothing(seed: int) -> None:
    chance = random.Random(seed)

    def noisy(tokens: int) -> float:
        return overhead(tokens) * chance.lognormvariate(0.0, 0.05) * (10.0 if chance.random() < 0.1 else 1.0)

    assert settled(start_control(1536), noisy).row_tokens == 1536


def test_rows_that_are_not_full_teach_nothing() -> None:
    state = start_control(1536)
    for seconds, tokens in ((0.5, 100), (0.0, 1536), (0.5, 0)):
        row = RowMeasurement(
            num_tokens=tokens, seconds=seconds, room=1536, is_full=tokens == 1536 or not tokens, token_budget=1536
        )
        assert control_rows(state, row)[2] == state
    assert (state.next_room, state.why) == (1536, MEMORY)


def test_it_is_tried_again_after_many_rows_and_follows_a_machine_that_has_changed() -> None:
    after = settled(start_control(1536), overhead)
    walk = rows(after, cliff(1000))
    for _ in range(STANDS_ROWS - 1):
        assert next(walk).probe == 0
    assert next(walk).probe == 768
    again = settled(next(walk), cliff(1000))
    assert again.row_tokens == 768


@pytest.mark.parametrize("num_rows", [0, 5, 4 * (ROWS + SKIPPED), 300])
def test_out_of_memory_is_followed_at_once(num_rows: int) -> None:
    walk, state = rows(start_control(4096), cliff(3000)), start_control(4096)
    for _ in range(num_rows):
        state = next(walk)
    row = RowMeasurement(num_tokens=9, seconds=1.0, room=state.next_room, is_full=True, token_budget=512)
    room, why, after = control_rows(state, row)
    assert (room, after.row_tokens, after.probe) == (512, 512, 0)
    assert why == "what memory allows since it was short"


@given(
    budget=st.integers(1, 20_000),
    steps=st.lists(st.tuples(st.floats(0, 10), st.booleans(), st.integers(0, 40)), max_size=300),
)
@settings(max_examples=60, deadline=None)
def test_never_above_memory_and_never_below_a_tile(budget: int, steps: list[tuple[float, bool, int]]) -> None:
    state, memory = start_control(budget), budget
    for seconds, is_full, shrinks in steps:
        memory = max(1, memory // 2) if shrinks == 40 else memory
        row = RowMeasurement(
            num_tokens=state.next_room, seconds=seconds, room=state.next_room, is_full=is_full, token_budget=memory
        )
        assert control_rows(state, row) == control_rows(state, row)
        room, _, state = control_rows(state, row)
        assert min(TILE, memory) <= room <= memory
