"""Step times learned from rows: found again on made machines, forgotten; what policies make of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import StepTimeModel, StepTimes
from mlora_ray.policies.models.step_time_fit import (
    HALF_ROWS,
    MIN_ROWS,
    SHAPE,
    StepTimeFit,
    added,
    fitted,
    learn,
    row_stats,
    rows_since,
)
from mlora_ray.types import ClusterView, HostView, LearnedStepTime, RowStats
from mlora_ray.types.serialization import from_plain, to_plain
from tests.builders.views import STEPS, adapter, decide

ROW = 1024
TRUTH = (0.05, 1e-3, 0.01)  # start, a token, an adapter


def made(seed: int, num: int, truth: tuple[float, float, float] = TRUTH, noise: float = 0.03) -> RowStats:
    """Rows of 200 to 1,000 tokens of 1 to 8 adapters."""
    chance, total = random.Random(seed), RowStats()
    for _ in range(num):
        tokens, steps = chance.randint(200, 1000), chance.uniform(1, 8)
        seconds = (truth[0] + truth[1] * tokens + truth[2] * steps) * chance.lognormvariate(0.0, noise)
        total = added(total, row_stats(tokens, steps, 8 * tokens, seconds))
    return total


def told(state: StepTimeFit, rows: RowStats, profile: StepTimeModel | None = None) -> StepTimeFit:
    return learn(state, rows, "b", "cpu", ROW, profile)


def model(learned: LearnedStepTime | None) -> StepTimeModel:
    assert learned is not None
    return StepTimes().seen([learned]).of("b", "cpu")


def test_a_machine_is_found_again() -> None:
    state = told(StepTimeFit(), made(0, 600))
    assert state.published is not None
    found = state.published
    assert (found.start_s, found.token_s, found.adapter_s) == pytest.approx(TRUTH, rel=0.15)
    for tokens, steps in ((200, 1), (600, 4), (1000, 8)):
        says = model(found).step_s(tokens, steps)
        assert says == pytest.approx(TRUTH[0] + TRUTH[1] * tokens + TRUTH[2] * steps, rel=0.01)
    assert (found.token_budget, found.num_rows, found.drift) == (ROW, 600, 0.0)


def test_rows_that_are_all_alike_are_met_and_the_rest_is_filled_in_as_where_nothing_is_known() -> None:
    state, row = StepTimeFit(), row_stats(1000, 8, 8000, 1.0)
    for _ in range(100):
        state = told(state, row)
    assert model(state.published).step_s(1000, 8) == pytest.approx(1.0, rel=1e-3)
    ratio = (SHAPE[0] + 500 * SHAPE[1] + 4 * SHAPE[2]) / (SHAPE[0] + 1000 * SHAPE[1] + 8 * SHAPE[2])
    assert model(state.published).step_s(500, 4) == pytest.approx(ratio, rel=1e-3)


def test_nothing_is_published_early_or_twice() -> None:
    early = told(StepTimeFit(), made(0, MIN_ROWS - 1))
    assert early.published is None
    first = told(early, made(1, 1)).published
    assert first is not None
    state = told(early, made(1, 1))
    for seed in range(2, 40):
        state = told(state, made(seed, 20))
    assert state.published is not None
    assert abs(model(state.published).step_s(600, 4) / model(first).step_s(600, 4) - 1) < 0.1
    steady = state.published
    for seed in range(40, 60):
        state = told(state, made(seed, 20))
    assert state.published is steady
    assert told(state, RowStats()) is state


def test_a_machine_that_slows_down_is_followed_and_its_drift_is_seen() -> None:
    slow = (2 * TRUTH[0], 2 * TRUTH[1], 2 * TRUTH[2])
    state = told(StepTimeFit(), made(0, 300))
    state = told(state, made(1, 100))
    assert state.timing.drift == pytest.approx(1.0, abs=0.05)
    state = told(state, made(2, 20, slow))
    assert 1.1 < state.timing.drift < 1.7
    for seed in range(3, 40):
        state = told(state, made(seed, HALF_ROWS // 10, slow))
    assert model(state.published).step_s(600, 4) == pytest.approx(2 * (0.05 + 0.6 + 0.04), rel=0.06)
    assert state.timing.drift == pytest.approx(1.0, abs=0.06)


def test_a_profile_is_what_drift_is_measured_against() -> None:
    profile = StepTimeModel(id="p", layer_points=((100.0, 0.15), (1000.0, 1.05)), per_adapter_s=0.01, token_budget=2048)
    state = told(StepTimeFit(), made(0, 100), profile)
    assert state.published is not None
    assert state.published.drift == pytest.approx(1.0, abs=0.05)
    for seed in range(1, 30):
        state = told(state, made(seed, 50, (0.1, 2e-3, 0.02)), profile)
    assert state.timing.drift == pytest.approx(2.0, abs=0.1)


rows_of_any_kind = st.lists(
    st.tuples(st.integers(1, 9000), st.floats(0.01, 40), st.floats(1e-4, 100)), min_size=1, max_size=30
)


@given(rows=rows_of_any_kind)
@settings(max_examples=80, deadline=None)
def test_no_coefficient_is_below_zero_and_a_row_never_takes_nothing(rows: list[tuple[int, float, float]]) -> None:
    total = RowStats()
    for tokens, steps, seconds in rows:
        total = added(total, row_stats(tokens, steps, tokens, seconds))
    found = fitted(total)
    assert min(found) >= 0
    assert found[0] + found[1] > 0
    state = told(StepTimeFit(), added(total, total, 40.0))
    if state.published is not None:
        assert model(state.published).step_s(100.0, 1) > 0


def test_sums_are_differences_of_what_a_host_says_and_begin_anew_with_it() -> None:
    before, now = made(0, 10), added(made(0, 10), made(1, 5))
    since = rows_since(before, now)
    assert (since.num_rows, since.tokens) == (5, made(1, 5).tokens)
    assert rows_since(now, before) == before
    assert rows_since(now, now).num_rows == 0


# -- what policies make of it


def learned(**values: object) -> LearnedStepTime:
    plain = {"base": "b", "device_type": "cpu", "start_s": 0.4, "token_s": 1e-4, "adapter_s": 0.0}
    return LearnedStepTime(**(plain | {"token_budget": 4096, "drift": 1.0, "num_rows": 99} | values))  # type: ignore[arg-type]


def test_what_was_seen_goes_before_a_profile_and_nothing_seen_changes_nothing() -> None:
    assert STEPS.seen(()) is STEPS
    seen = STEPS.seen([learned(), learned(device_type="cuda", start_s=0.1), learned(base="c")])
    assert seen.of("b", "cpu").step_s(1000) == pytest.approx(0.5)
    assert seen.of("b", "cuda").step_s(1000) == pytest.approx(0.2)
    assert seen.of("b") == seen.of("b", "cpu"), "any device: the first that was seen"
    assert seen.of("unseen", "cpu") is STEPS.default
    assert STEPS.of("b", "cpu") is STEPS.default
    assert seen.of("b", "cpu").step_s(8192) == pytest.approx(2 * (0.4 + 0.4096))


@pytest.mark.parametrize("name", ["rate-remaining", "tlora-2.0", "srpt", "las", "backfill"])
def test_every_policy_that_knows_step_times_takes_what_was_seen_and_answers_the_same_from_a_log(name: str) -> None:
    """Whether to share a device: not where every token costs its time, at once where a row's start is all there is."""
    policy = load_policy(name)
    host = HostView(id="h0", base="b", device_type="cpu")
    jobs = [adapter(f"a{at}", step_tokens=700.0, submitted_s=float(at), solo_tokens_s=0.0) for at in range(6)]
    views = [
        ClusterView(now_s=1000.0, hosts=(host,), adapters=tuple(jobs), step_times=(learned(**values),))
        for values in ({"start_s": 1.0, "token_s": 1e-6}, {"start_s": 1e-6, "token_s": 1e-3})
    ]
    counts = [len(decide(policy, view)) for view in views]
    assert counts[0] > 1 or name in ("srpt", "las", "backfill")
    assert counts[1] <= counts[0]
    for view in views:
        again = from_plain(ClusterView, to_plain(view))
        assert again == view
        assert decide(policy, again) == decide(policy, view)


def test_a_log_from_before_there_were_step_times_reads() -> None:
    plain = to_plain(ClusterView(now_s=1.0))
    del plain["step_times"]
    assert from_plain(ClusterView, plain) == ClusterView(now_s=1.0)
