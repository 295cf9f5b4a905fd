"""What every simulation must keep: the trace's own durations, all tokens, the bounds, the policies' invariants."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.placement.independent import Independent
from mlora_ray.simulate.bounds import makespan_bound, mean_completion_bound
from mlora_ray.simulate.results import FREE, Costs, SimJob
from mlora_ray.simulate.simulation import Simulation, SimulationError
from mlora_ray.simulate.step_by_step import StepExactSimulation
from mlora_ray.simulate.synthetic import synthetic_philly
from mlora_ray.simulate.traces import TraceRow, filter_rows
from mlora_ray.simulate.workload import WorkloadSettings, make_window
from mlora_ray.types import Action, ClusterView, Pause, Place, PolicyState
from tests.builders.jobs import POLICIES, STEPS, hosts, job, job_lists, simulate

ROWS = filter_rows([TraceRow(*row) for row in synthetic_philly(1, num_days=16)]).rows


def window(num: int, seed: int = 1, **values: object) -> list[SimJob]:
    return make_window(ROWS, WorkloadSettings(num_jobs=num, **values), STEPS, seed)  # type: ignore[arg-type]


def test_independent_jobs_on_enough_free_devices_take_exactly_the_traces_durations() -> None:
    jobs = window(200)
    outcome = simulate("independent", jobs, sum(j.width for j in jobs), FREE)
    assert len(outcome.jobs) == 200
    for one in outcome.jobs:
        assert one.completion_s == pytest.approx(one.job.duration_s, rel=1e-9)
        assert one.wait_s == 0


@settings(max_examples=12, deadline=None)
@given(job_lists, st.integers(4, 6), st.sampled_from(POLICIES), st.booleans())
def test_tokens_are_conserved_and_no_policy_beats_a_bound(
    jobs: list[SimJob], num_hosts: int, policy: str, is_free: bool
) -> None:
    """Every action is checked against the contract inside the simulation."""
    outcome = simulate(policy, jobs, num_hosts, FREE if is_free else None)
    assert sorted(o.job.id for o in outcome.jobs) == sorted(j.id for j in jobs)
    assert outcome.tokens == pytest.approx(sum(j.tokens for j in jobs))
    assert sum(o.completion_s for o in outcome.jobs) / len(jobs) >= mean_completion_bound(jobs, num_hosts, STEPS) * (
        1 - 1e-9
    )
    assert outcome.makespan_s >= makespan_bound(jobs, num_hosts, STEPS) * (1 - 1e-9)
    assert outcome.busy_s <= outcome.allocated_s + 1e-6 <= outcome.host_s + 2e-6
    assert outcome.busy_s * STEPS.default.best_tokens_s >= outcome.tokens * (1 - 1e-9)
    for one in outcome.jobs:
        assert one.slowdown >= 1 - 1e-9
        assert one.wait_s >= -1e-9


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_place_costs(policy: str) -> None:
    outcome = simulate(policy, [job("a", 5.0, 100.0)], 2, Costs(place_s=10.0))
    assert outcome.jobs[0].completion_s == pytest.approx(110.0)
    assert outcome.jobs[0].wait_s == pytest.approx(10.0)
    assert outcome.num_placed == 1


def test_what_a_pause_costs() -> None:
    """The short one comes at 20 s, is in place at 24 and ends at 44; the long one had 16 s and pays two costs."""
    jobs = [job("long", 0.0, 100.0, row_tokens=2000), job("x", 20.0, 20.0, row_tokens=2000)]
    long, short = simulate("srpt", jobs, 1, Costs(place_s=4.0, pause_s=3.0)).jobs
    assert short.finished_s == pytest.approx(44.0)
    assert long.finished_s == pytest.approx(44.0 + 4.0 + 84.0)
    assert long.num_moves == 3


def test_a_group_steps_together_and_turns_and_padding_cost_what_they_cost() -> None:
    """Two of 100 tokens a step: 51 ms alone and together, as the floor is 50 ms; in turns twice that."""
    jobs = [job(f"j{at}", 0.0, 505.0, rows=1, row_tokens=100.0) for at in range(2)]
    together = simulate("tlora-2.0", jobs, 1, FREE).jobs[0].completion_s
    assert together == pytest.approx(505.0 * 0.051 / 0.0505)
    assert simulate("timeslice", jobs, 1, FREE).jobs[0].completion_s == pytest.approx(1010.0)
    model = STEPS.default
    uneven = [job("a", 0.0, 100.0, rows=8, row_tokens=100.0), job("b", 0.0, 10_000.0, rows=1, row_tokens=800.0)]
    padded = simulate("mlora-trivial", uneven, 1, FREE).jobs[0].completion_s
    assert padded == pytest.approx(100.0 * model.step_s(9 * 800.0, 2) / model.step_s(800.0))


@pytest.mark.parametrize("policy", ["independent", "srpt", "las", "timeslice", "tlora-2.0", "rate-remaining"])
def test_fluid_and_step_by_step_agree_within_a_hundredth(policy: str) -> None:
    """40 jobs of a fortieth of the trace's time, costs alike."""
    jobs = []
    for one in window(120, load=1.2, num_hosts=3):
        if one.width == 1 and len(jobs) < 40:
            short = {"submit_s": one.submit_s / 40, "duration_s": one.duration_s / 40, "tokens": one.tokens / 40}
            jobs.append(dataclasses.replace(one, declared_tokens=one.tokens / 40, **short))  # type: ignore[arg-type]
    costs = Costs(place_s=0.5, pause_s=0.5, migrate_s=0.5)
    means = []
    for kind in (Simulation, StepExactSimulation):
        outcome = kind(jobs, hosts(3), STEPS, load_policy(policy, STEPS), costs).run()
        means.append(sum(o.completion_s for o in outcome.jobs) / len(jobs))
    assert means[1] == pytest.approx(means[0], rel=0.01)


def test_step_by_step_refuses_wide_jobs() -> None:
    with pytest.raises(ValueError, match="not wide"):
        StepExactSimulation([job("wide", 0.0, 100.0, width=2)], hosts(2), STEPS, Independent())


class Broken:
    """Does one of the things that no policy may do."""

    name = "broken"

    def __init__(self, how: str) -> None:
        self.how = how

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        if self.how == "raises":
            raise RuntimeError("no idea")
        if self.how == "pauses":
            return [Pause(adapter=view.adapters[0].id, epoch=0)], state
        if self.how == "doubles":
            one = view.adapters[0]
            return [Place(adapter=one.id, host="h000", epoch=0, shards=("h001",))], state
        return [], state


@pytest.mark.parametrize(
    ("how", "why"),
    [("raises", "no idea"), ("pauses", "on no host"), ("doubles", "width 1"), ("waits", "for ever")],
)
def test_a_broken_policy_stops_the_simulation_and_shows_the_view(how: str, why: str) -> None:
    with pytest.raises(SimulationError, match=why) as caught:
        Simulation([job("a", 0.0, 100.0)], hosts(2), STEPS, Broken(how)).run()
    assert '"adapters":[{"id":"a"' in str(caught.value)


def test_the_same_seed_gives_the_same_simulation() -> None:
    first, again = (simulate("rate-remaining", window(60), 4) for _ in range(2))
    assert first.jobs == again.jobs
    assert window(60) != window(60, seed=2)
