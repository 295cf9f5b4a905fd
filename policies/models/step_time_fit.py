"""Step times learned from the rows that hosts run: least squares that forget, for each base and device type.

A row of T tokens with n optimizer steps is thought to take t = start_s + token_s * T + adapter_s * n, none below zero.
Rows are often alike, and then say little of the three apart: what they leave open is filled in with the proportions of
a step time of which nothing is known. What is published changes only when it predicts otherwise by more than 5%, so
that the log of decisions stays short.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.types import LearnedStepTime, RowStats

MIN_ROWS = 30  # before anything is published
HALF_ROWS = 500  # after so many more, rows count half
HALF_DRIFT_ROWS = 100
MOVED = 0.05
PULL = 1e-3  # of each sum of squares, towards `SHAPE`
SHAPE = (0.0128, 1e-4, 2e-4)  # as `step_time.UNKNOWN`, its floor for a start; scaled to the rows

_FIELDS = tuple(f.name for f in dataclasses.fields(RowStats))
Coefficients = tuple[float, float, float]


class Timing(NamedTuple):
    """Predicted and actual seconds of the same rows, the older ones counting less."""

    predicted_s: float = 0.0
    actual_s: float = 0.0

    @property
    def drift(self) -> float:
        """Actual over predicted; 0 where nothing was predicted."""
        return self.actual_s / self.predicted_s if self.predicted_s > 0 else 0.0

    def after(self, rows: RowStats, predicted_s: float) -> Timing:
        if predicted_s <= 0:
            return self
        kept = 0.5 ** (rows.num_rows / HALF_DRIFT_ROWS)
        return Timing(kept * self.predicted_s + predicted_s, kept * self.actual_s + rows.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeFit:
    """All that is known of one base on one device type."""

    sums: RowStats = field(default_factory=RowStats)  # forgetting
    rooms: float = 0.0  # tokens that a row could hold, summed in the same way
    num_rows: int = 0
    timing: Timing = field(default_factory=Timing)
    published: LearnedStepTime | None = None


def row_stats(num_tokens: float, num_steps: float, rank_tokens: float, seconds: float) -> RowStats:
    """Of one row."""
    return RowStats(
        num_rows=1.0,
        seconds=seconds,
        tokens=num_tokens,
        steps=num_steps,
        rank_tokens=rank_tokens,
        tokens_tokens=num_tokens * num_tokens,
        tokens_steps=num_tokens * num_steps,
        steps_steps=num_steps * num_steps,
        seconds_tokens=seconds * num_tokens,
        seconds_steps=seconds * num_steps,
    )


def added(one: RowStats, other: RowStats, weight: float = 1.0) -> RowStats:
    """`weight` times `one`, plus `other`."""
    return RowStats(**{name: weight * getattr(one, name) + getattr(other, name) for name in _FIELDS})


def rows_since(before: RowStats, now: RowStats) -> RowStats:
    """Of a host's sums since it started; all of them where it has started anew."""
    return added(before, now, -1.0) if now.num_rows >= before.num_rows else now


def predicted_s(rows: RowStats, known: LearnedStepTime | None, profile: StepTimeModel | None = None) -> float:
    """Seconds that these rows should have taken, by the profile where there is one; 0 where nothing is known.

    A profile bends; it is asked for the mean row.
    """
    num = rows.num_rows
    if num and profile is not None:
        return num * profile.step_s(rows.tokens / num, max(1, round(rows.steps / num)), rows.rank_tokens / num)
    return known.start_s * num + known.token_s * rows.tokens + known.adapter_s * rows.steps if known else 0.0


def learn(
    state: StepTimeFit,
    rows: RowStats,
    base: str,
    device_type: str,
    row_tokens: int,
    profile: StepTimeModel | None = None,
) -> StepTimeFit:
    """After these rows of a host whose rows hold `row_tokens`."""
    if rows.num_rows <= 0:
        return state
    kept = 0.5 ** (rows.num_rows / HALF_ROWS)
    state = StepTimeFit(
        sums=added(state.sums, rows, kept),
        rooms=kept * state.rooms + row_tokens * rows.num_rows,
        num_rows=state.num_rows + round(rows.num_rows),
        timing=state.timing.after(rows, predicted_s(rows, state.published, profile)),
        published=state.published,
    )
    if state.num_rows < MIN_ROWS:
        return state
    start_s, token_s, adapter_s = fitted(state.sums)
    found = LearnedStepTime(
        base=base,
        device_type=device_type,
        start_s=start_s,
        token_s=token_s,
        adapter_s=adapter_s,
        token_budget=max(1, round(state.rooms / state.sums.num_rows)),
        drift=state.timing.drift,
        num_rows=state.num_rows,
    )
    return dataclasses.replace(state, published=found) if _has_moved(state, found) else state


def fitted(sums: RowStats) -> Coefficients:
    """(start_s, token_s, adapter_s): none below zero, the least squared error with its pull; a row takes some time."""
    s = sums
    squares = (
        (s.num_rows, s.tokens, s.steps),
        (s.tokens, s.tokens_tokens, s.tokens_steps),
        (s.steps, s.tokens_steps, s.steps_steps),
    )
    products = (s.seconds, s.seconds_tokens, s.seconds_steps)
    unit = s.seconds / sum(shape * each for shape, each in zip(SHAPE, squares[0], strict=True))
    pulls = [PULL * squares[at][at] for at in range(3)]
    left = [[squares[i][j] + (pulls[i] if i == j else 0.0) for j in range(3)] for i in range(3)]
    right = [products[i] + pulls[i] * unit * SHAPE[i] for i in range(3)]
    best, least = (0.0, 0.0, 0.0), 0.0
    for free in (f for num in (1, 2, 3) for f in itertools.combinations(range(3), num)):
        values = _solved([[left[i][j] for j in free] for i in free], [right[i] for i in free])
        # At its own optimum the squared error of a set is a constant less right . values.
        gain = sum(right[i] * value for i, value in zip(free, values, strict=True))
        found = dict(zip(free, values, strict=True))
        start_s, token_s, adapter_s = (found.get(at, 0.0) for at in range(3))
        if min(values) >= 0 and start_s + token_s > 0 and gain > least:
            best, least = (start_s, token_s, adapter_s), gain
    return best


def _has_moved(state: StepTimeFit, found: LearnedStepTime) -> bool:
    """By what it says of the mean row and of half of it."""
    before, sums = state.published, state.sums
    if before is None:
        return True
    if abs(found.token_budget / before.token_budget - 1) > MOVED:
        return True
    half = added(sums, RowStats(num_rows=sums.num_rows / 2), 0.5)
    return any(abs(predicted_s(rows, found) / predicted_s(rows, before) - 1) > MOVED for rows in (sums, half))


def _solved(left: list[list[float]], right: list[float]) -> list[float]:
    """Gauss, for a symmetric matrix above zero."""
    num = len(right)
    rows = [[*line, value] for line, value in zip(left, right, strict=True)]
    for at in range(num):
        for below in range(at + 1, num):
            factor = rows[below][at] / rows[at][at]
            rows[below] = [x - factor * y for x, y in zip(rows[below], rows[at], strict=True)]
    values = [0.0] * num
    for at in reversed(range(num)):
        known = sum(rows[at][j] * values[j] for j in range(at + 1, num))
        values[at] = (rows[at][num] - known) / rows[at][at]
    return values
