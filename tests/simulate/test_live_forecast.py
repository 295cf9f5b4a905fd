"""Looking ahead from a cluster as it is: who starts when, and what a person is told of it."""

from __future__ import annotations

import dataclasses

import pytest

from mlora_ray.policies.contract import load_policy
from mlora_ray.simulate.explain import explain
from mlora_ray.simulate.live_forecast import LIVE_COSTS, look_ahead
from mlora_ray.types import ClusterView, JobState, LearnedStepTime, PolicyState
from mlora_ray.types.records import Event
from mlora_ray.types.service import PolicySnapshot
from mlora_ray.types.status import JobStatus
from tests.builders.views import STEPS, adapter, hosts, view

SLOW = 2.0


def busy() -> ClusterView:
    """One host that trains one adapter for 1,000 s more; two that wait, and one that nobody can take."""
    return view(
        hosts(1),
        adapter("runs", 1000.0, host="h0", done_s=500.0),
        adapter("first", 200.0, submitted_s=10.0),
        adapter("second", 100.0, submitted_s=20.0),
        adapter("stranger", 50.0, submitted_s=5.0, base="other"),
    )


def test_first_come_first_served_is_foreseen_to_the_second() -> None:
    seen = busy()
    found = look_ahead(seen, load_policy("independent", STEPS), PolicyState(), STEPS)
    assert set(found) == {"runs", "first", "second"}  # no host has the stranger's base
    assert found["runs"].finish_s == pytest.approx(seen.now_s + 1000.0, abs=1.0)
    assert found["first"].start_s == pytest.approx(found["runs"].finish_s + LIVE_COSTS.place_s, abs=1.0)
    assert found["second"].finish_s - found["first"].finish_s == pytest.approx(100.0 + LIVE_COSTS.place_s, abs=1.0)
    assert found["second"].host == "h0"


def test_what_hosts_have_shown_counts_over_the_profile() -> None:
    learned = LearnedStepTime(
        base="b",
        device_type="",
        start_s=0.0,
        token_s=1e-4 * SLOW,
        adapter_s=0.0,
        num_rows=100,
        token_budget=100_000,
        drift=1.0,
    )
    seen = dataclasses.replace(view(hosts(1), adapter("one", 1000.0, host="h0")), step_times=(learned,))
    (found,) = look_ahead(seen, load_policy("fifo"), PolicyState(), STEPS).values()
    assert found.finish_s - seen.now_s == pytest.approx(1000.0 * SLOW, rel=0.05)


@pytest.mark.parametrize("policy", ["rate-remaining", "las", "fifo"])
def test_nobody_waits_for_a_host_that_is_not_there(policy: str) -> None:
    seen = view((), adapter("one"), adapter("two", base="other"))
    assert look_ahead(seen, load_policy(policy, STEPS), PolicyState(), STEPS) == {}
    beside = view(hosts(1), adapter("one"), adapter("two", base="other"))
    assert set(look_ahead(beside, load_policy(policy, STEPS), PolicyState(), STEPS)) == {"one"}


def test_a_host_of_another_device_or_other_numerics_is_none() -> None:
    there = hosts(1, device_type="cpu", numerics="n1")
    jobs = [adapter("gpu", device_type="cuda"), adapter("begun", numerics="n2"), adapter("any", numerics="n1")]
    assert set(look_ahead(view(there, *jobs), load_policy("fifo"), PolicyState(), STEPS)) == {"any"}


def told(name: str, state: JobState, **values: object) -> dict[str, object]:
    job = JobStatus(name=name, state=state, step=5, total_steps=20, **values)  # type: ignore[arg-type]
    events = [Event(at_s=400.0, kind="placed", job=name, host="h0", id=3)] if job.host else []
    situation = PolicySnapshot(view=busy(), policy="independent", policy_state=PolicyState())
    return explain(job, situation, events, STEPS)


def test_a_job_that_waits_is_told_whom_for_and_how_long() -> None:
    found = told("second", JobState.QUEUED, note="the policy has not placed it yet")
    assert found["waits_for"] == ["first"]
    assert found["why"][0] == "second waits, at step 5 of 20: the policy has not placed it yet."
    assert found["why"][1] == "1 waiting job is expected to start before it: first."
    assert "expected to start in 20m02s on h0 and to end in 21m42s" in found["why"][2]
    assert told("first", JobState.QUEUED)["why"][1] == "It is the next to start of 3 jobs that wait."
    assert "no host there is" in told("stranger", JobState.QUEUED)["why"][-1]


def test_a_job_that_runs_is_told_how_it_came_there_and_its_end() -> None:
    found = told("runs", JobState.TRAINING, host="h0", tokens_per_s=50.0)
    assert found["why"][:2] == [
        "runs trains on h0 alone: step 5 of 20, 50 tokens/s.",
        "Last change: placed on h0 10m00s ago.",
    ]
    assert "it is expected to end in 16m40s" in found["why"][2]
    assert found["expected_finish_s"] == pytest.approx(2000.0, abs=1.0)


def test_one_that_rests_or_has_ended_is_told_so() -> None:
    assert told("runs", JobState.PAUSED)["why"] == [
        "runs is paused at step 5 of 20; `mlora-ray resume runs` lets it go on."
    ]
    assert told("runs", JobState.FAILED, error="loss is nan")["why"] == ["runs is FAILED at step 5 of 20: loss is nan."]
