"""Seeded chaos: 12 adapters on 3 hosts end with the bits of the undisturbed run. `make chaos` runs 20 seeds."""

from __future__ import annotations

import pytest

from tests.chaos.plan import KINDS, plan
from tests.chaos.suite import NUM_STEPS, Suite

pytestmark = pytest.mark.timeout(900)  # a machine that does other things as well

SEEDS = (2, 4, 5)  # together every kind of fault, and both databases
DENSE_SEED, FEW_STEPS = 116, 120  # every kind but cut_node, for which Ray needs half a minute to call a node dead
RUNS = [(FEW_STEPS, DENSE_SEED), *(pytest.param(NUM_STEPS, seed, marks=pytest.mark.full) for seed in SEEDS)]


def test_a_plan_is_a_function_of_its_seed_and_these_seeds_cover_every_kind() -> None:
    assert [plan(seed) for seed in range(50)] == [plan(seed) for seed in range(50)]
    assert len({str(plan(seed)) for seed in range(50)}) == 50
    assert set.union(*(plan(seed).kinds for seed in SEEDS)) == set(KINDS)
    assert {plan(seed).database for seed in SEEDS} == {"sqlite", "postgresql"}
    assert plan(DENSE_SEED).kinds == set(KINDS) - {"cut_node"}


@pytest.mark.parametrize(("suite", "seed"), RUNS, indirect=["suite"])
def test_chaos_changes_no_bit(suite: Suite, seed: int, request: pytest.FixtureRequest) -> None:
    needs_server = plan(seed).database == "postgresql"
    suite.run(seed, request.getfixturevalue("postgres_server") if needs_server else None)
