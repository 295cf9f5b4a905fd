"""`on-time`: who shares, who waits, who goes on demand and back, and what it never gives up.

A machine takes 147.1 s, a decision 60 s: with less slack than 222.1 s a job may not be on spot, with less than 1,422.1
it goes on demand where there is no spot.
"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.policies.contract import validate_actions
from mlora_ray.policies.spot.deadline_slack import SpotSettings, slack_of
from mlora_ray.policies.spot.host_sharing import need_of
from mlora_ray.policies.spot.on_time import OnTime
from mlora_ray.policies.spot.zone_probing import ProbeState
from mlora_ray.types import AdapterView, AutoscaleSettings, HostView, PolicyState
from tests.builders.views import STEPS, adapter, decide
from tests.policies.spot.test_uniform_progress import SPOT_A, host, scale, seen

OURS = OnTime(STEPS)
REFUSED = ProbeState(refused=("spot-a", "spot-b"))


def job(name: str, slack_s: float, left_s: float = 3000.0, **values: object) -> AdapterView:
    """Seen at second 0, with so much slack."""
    return adapter(name, left_s=left_s, **{"deadline_at_s": left_s + slack_s, **values})


def test_who_has_slack_waits_for_spot_and_nobody_pays_for_on_demand() -> None:
    waits = job("a", 5000.0)
    assert scale(seen(0.0, (), waits), rule=OURS)[0] == ["spot-a"]
    assert scale(seen(0.0, (), waits), REFUSED, OURS)[0] == ["spot-a"], "one probe a zone and decision"
    assert decide(OURS, seen(0.0, (host("d", False),), waits)) == {}
    assert scale(seen(0.0, (host("d", False),), waits), REFUSED, OURS)[1] == ["d"]


@pytest.mark.parametrize(("slack_s", "launched"), [(1421.0, ["sure", "spot-a"]), (1423.0, ["spot-a"])])
def test_with_the_reserve_gone_it_goes_on_demand_and_goes_on_asking(slack_s: float, launched: list[str]) -> None:
    assert scale(seen(0.0, (), job("a", slack_s)), REFUSED, OURS)[0] == launched


@pytest.mark.parametrize("slack_s", [0.5, 100.0, 221.0])
def test_who_could_not_bear_the_loss_of_a_machine_is_on_demand_to_the_end(slack_s: float) -> None:
    on = job("a", slack_s, host="d", done_s=10.0)
    held = seen(0.0, (host("d", False, "a"), host("s", True)), on)
    assert decide(OURS, held) == {}
    assert scale(held, rule=OURS)[:2] == ([], ["s"])
    on_spot = job("a", slack_s, host="s", done_s=10.0)
    assert scale(seen(0.0, (host("s", True, "a"),), on_spot), rule=OURS)[0] == ["sure"]
    assert decide(OURS, seen(0.0, (host("s", True, "a"),), on_spot)) == {}, "spot until the other one runs"
    both = (host("s", True, "a"), host("d", False))
    assert decide(OURS, seen(0.0, both, on_spot)) == {"a": ("d",)}


def test_it_goes_back_to_spot_when_a_machine_runs_and_not_before() -> None:
    on = job("a", 300.0, host="d", done_s=10.0)
    alone = (host("d", False, "a"),)
    assert scale(seen(0.0, alone, on), REFUSED, OURS)[0] == ["spot-a"]
    coming = seen(0.0, alone, on, pending=(host("s", True),))
    assert scale(coming, rule=OURS)[:2] == ([], [])
    assert decide(OURS, coming) == {}
    assert decide(OURS, seen(0.0, (*alone, host("s", True)), on)) == {"a": ("s",)}


def test_jobs_share_as_long_as_each_is_in_time() -> None:
    """500 beside 500 tokens take twice as long: each needs half of its speed or less."""
    patient = [job("a", 9000.0, host="s", done_s=1.0), job("b", 9000.0)]
    held = (host("s", True, "a"),)
    assert scale(seen(0.0, held, *patient), rule=OURS)[:2] == ([], [])
    assert decide(OURS, seen(0.0, held, *patient)) == {"b": ("s",)}
    pressed = [job("a", 2500.0, host="s", done_s=1.0), job("b", 2500.0)]
    assert scale(seen(0.0, held, *pressed), rule=OURS)[0] == ["spot-b"]
    assert decide(OURS, seen(0.0, held, *pressed)) == {}
    two = (*held, host("t", True))
    assert decide(OURS, seen(0.0, two, *pressed)) == {"b": ("t",)}


def test_beside_one_on_demand_others_ride_if_that_is_worth_it_and_leave_with_it() -> None:
    """Steps of 100 tokens cost next to nothing beside another's; the rider goes on asking for spot."""
    owner = job("a", 1000.0, host="d", done_s=1.0, step_tokens=100)
    rider = job("r", 9000.0, step_tokens=100)
    held = (host("d", False, "a"),)
    assert decide(OURS, seen(0.0, held, owner, rider)) == {"r": ("d",)}
    assert scale(seen(0.0, held, owner, rider), REFUSED, OURS)[0] == ["spot-a", "spot-b"]
    heavy = job("r", 9000.0, step_tokens=500)
    assert decide(OURS, seen(0.0, held, owner, heavy)) == {}, "the owner would be late"
    left = job("r", 9000.0, host="d", done_s=1.0, step_tokens=100)
    assert decide(OURS, seen(0.0, (host("d", False, "r"),), left)) == {"r": ()}


def test_who_is_bound_keeps_its_machine_and_the_next_machine_is_his_who_waits_for_it() -> None:
    bound = job("a", 150.0, host="d", done_s=10.0)
    newcomer = job("n", 10.0, left_s=60.0)
    assert decide(OURS, seen(0.0, (host("d", False, "a"),), bound, newcomer)) == {}
    waiting = job("a", 90.0, submitted_s=-400.0)
    assert decide(OURS, seen(0.0, (host("d", False),), waiting, newcomer)) == {"a": ("d",)}


def test_who_has_slack_makes_way_for_who_has_none() -> None:
    patient = job("a", 9000.0, host="s", done_s=10.0)
    newcomer = job("n", 20.0, left_s=60.0)
    assert decide(OURS, seen(0.0, (host("s", True, "a"),), patient, newcomer)) == {"a": (), "n": ("s",)}


def test_no_machine_is_asked_for_when_it_would_come_too_late() -> None:
    lost = job("a", 140.0)
    assert scale(seen(0.0, (), lost), rule=OURS)[0] == []
    assert scale(seen(0.0, (), job("a", 150.0)), rule=OURS)[0] == ["sure"]
    assert decide(OURS, seen(0.0, (host("d", False),), lost)) == {"a": ("d",)}, "but one that is there is taken"


def test_a_missed_deadline_is_none() -> None:
    late = job("a", -1.0)
    assert scale(seen(0.0, (), late), REFUSED, OURS)[0] == ["spot-a"]


def test_without_deadlines_jobs_wait_their_patience_and_then_share_what_is_on_demand() -> None:
    plain = [job(name, 0.0, deadline_at_s=None) for name in "abc"]
    assert scale(seen(0.0, (), *plain), REFUSED, OURS)[0] == ["spot-a", "spot-b"]
    old = [dataclasses.replace(one, submitted_at_s=-9000.0) for one in plain]
    assert scale(seen(0.0, (), *old), REFUSED, OURS)[0] == ["sure", "spot-a", "spot-b"]


def test_what_a_job_needs_of_a_shared_device_is_work_over_time_less_what_is_kept() -> None:
    numbers = SpotSettings()
    kept_s = 60 + 147.1 + 15 + 600
    held = slack_of(job("a", 3000.0 + kept_s, left_s=3000.0), 0.0, STEPS, numbers)
    assert need_of(held, numbers) == pytest.approx(0.5, abs=1e-4)
    assert need_of(slack_of(job("a", kept_s), 0.0, STEPS, numbers), numbers) == pytest.approx(1.0, abs=1e-6)
    plain = slack_of(job("a", 0.0, deadline_at_s=None), 0.0, STEPS, numbers)
    assert need_of(plain, numbers) <= 1 / 3


def test_memory_device_numerics_and_limits_hold() -> None:
    small = dataclasses.replace(host("s", True), free_bytes=15)
    two = [job(name, 9000.0, state_bytes=10) for name in "ab"]
    assert decide(OURS, seen(0.0, (small,), *two)) == {"a": ("s",)}
    other = dataclasses.replace(host("s", True), numerics="x")
    assert decide(OURS, seen(0.0, (other,), job("a", 9000.0, numerics="y"))) == {}
    assert decide(OURS, seen(0.0, (other,), job("a", 9000.0, device_type="cuda"))) == {}
    rule = OnTime(STEPS, limits=AutoscaleSettings(max_hosts=1))
    assert scale(seen(0.0, (), *(job(name, 100.0, submitted_s=-50.0) for name in "ab")), rule=rule)[0] == []
    assert scale(seen(0.0, (), *(job(name, 200.0) for name in "ab")), rule=rule)[0] == ["sure"]
    full = dataclasses.replace(SPOT_A, max_hosts=0)
    none = dataclasses.replace(seen(0.0, (), job("a", 9000.0)), host_types=(full,))
    assert scale(none, rule=OURS)[0] == []


jobs = st.lists(
    st.tuples(
        st.floats(-500, 9000),  # slack
        st.floats(10, 9000),  # left
        st.sampled_from([20.0, 100.0, 500.0, 2000.0]),
        st.sampled_from(["", "h0", "h1", "h2", "h3"]),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(jobs, st.lists(st.tuples(st.booleans(), st.sampled_from(["alive", "draining"])), min_size=4, max_size=4))
def test_every_action_is_allowed_and_nobody_bound_loses_its_host(
    rows: list[tuple[float, float, float, str, bool]], kinds: list[tuple[bool, str]]
) -> None:
    adapters = [
        job(f"j{at}", slack, left, step_tokens=tokens, state_bytes=10, **({"host": on} if on else {}))
        if is_due
        else job(f"j{at}", 0.0, left, step_tokens=tokens, state_bytes=10, deadline_at_s=None)
        for at, (slack, left, tokens, on, is_due) in enumerate(rows)
    ]
    held: list[HostView] = []
    for at, (is_spot, state) in enumerate(kinds):
        group = tuple(a.id for a in adapters if a.host == f"h{at}")
        held.append(dataclasses.replace(host(f"h{at}", is_spot, *group), state=state, free_bytes=60))
    cluster = seen(0.0, tuple(held), *adapters)
    actions, _ = OURS.decide(cluster, PolicyState())
    assert validate_actions(cluster, actions)[1] == []
    moves, _ = OURS.scale(cluster, ProbeState())
    assert validate_actions(cluster, moves)[1] == []
    alone = {h.group[0] for h in held if len(h.group) == 1 and not h.is_spot and h.state == "alive"}
    gone = {a.adapter for a in actions if hasattr(a, "adapter")}
    for one in adapters:
        slack = slack_of(one, 0.0, STEPS, SpotSettings())
        if one.id in alone and slack.is_firm and slack.slack_s < 222.0:
            assert one.id not in gone
