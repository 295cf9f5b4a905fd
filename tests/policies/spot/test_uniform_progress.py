"""Uniform Progress rule by rule, and the plain ways to have hosts. d is 147.1 s, the probe gap 60 s.

A job of 1,000 s that is due 1,500 s after it was submitted makes expected progress of 2 / 3.
"""

from __future__ import annotations

import dataclasses

import pytest

from mlora_ray.policies.scaling.baselines import FixedNumber, QueueThreshold, SteadyState
from mlora_ray.policies.spot.deadline_slack import SpotSettings, slack_of
from mlora_ray.policies.spot.uniform_progress import UniformProgress
from mlora_ray.policies.spot.zone_probing import ProbeState
from mlora_ray.types import AdapterView, AutoscaleSettings, ClusterView, DrainHost, HostType, HostView, LaunchHost
from tests.builders.views import STEPS, adapter, decide, hosts, view

RULE = UniformProgress(STEPS)
REFUSED = ProbeState(refused=("spot-a", "spot-b"))
SURE = HostType(name="sure", price_per_hour=3.0, max_hosts=9)
SPOT_A = HostType(name="spot-a", is_spot=True, zone="a", price_per_hour=1.0, max_hosts=9)
SPOT_B = dataclasses.replace(SPOT_A, name="spot-b", zone="b")


def job(name: str = "j", done_s: float = 0.0, **values: object) -> AdapterView:
    return adapter(name, left_s=1000.0 - done_s, done_s=done_s, **{"deadline_at_s": 1500.0, **values})


def host(name: str, is_spot: bool, *group: str, zone: str = "a") -> HostView:
    kind = f"spot-{zone}" if is_spot else "sure"
    return dataclasses.replace(hosts(1)[0], id=name, is_spot=is_spot, group=group, host_type=kind)


def seen(
    now_s: float, held: tuple[HostView, ...], *jobs: AdapterView, pending: tuple[HostView, ...] = ()
) -> ClusterView:
    plain = view(held, *jobs, now_s=now_s)
    return dataclasses.replace(plain, host_types=(SURE, SPOT_A, SPOT_B), pending_hosts=pending)


def scale(
    held: ClusterView, state: ProbeState | None = None, rule: UniformProgress = RULE
) -> tuple[list[str], list[str], ProbeState]:
    """Types launched and hosts drained; the answer repeats itself."""
    actions, after = rule.scale(held, state or ProbeState())
    assert rule.scale(held, state or ProbeState()) == (actions, after)
    launched = [a.host_type for a in actions if isinstance(a, LaunchHost)]
    return launched, [a.host for a in actions if isinstance(a, DrainHost)], after


def test_slack_is_time_left_less_work_left_and_a_job_without_a_deadline_has_patience() -> None:
    held = slack_of(job(done_s=300.0), 500.0, STEPS, SpotSettings())
    assert (held.left_s, held.done_s) == (pytest.approx(700, abs=0.01), pytest.approx(300, abs=0.01))
    assert held.slack_s == pytest.approx(300, abs=0.01)
    assert held.first_slack_s == pytest.approx(500, abs=0.01)
    assert slack_of(job(deadline_at_s=None), 0.0, STEPS, SpotSettings(patience=4.0)).due_at_s == pytest.approx(4000)
    late = slack_of(job(), 600.0, STEPS, SpotSettings(patience=4.0), is_forgiving=True)
    assert not late.is_firm
    assert late.due_at_s == pytest.approx(4000), "what cannot be met any more is a wish no longer"
    grown = slack_of(job(done_s=1000.0, tokens_total=1), 0.0, STEPS, SpotSettings())
    assert grown.left_s == pytest.approx(100, abs=0.1), "past its declared size: a tenth of what it has done"


def test_rule_1_idle_and_behind_goes_on_demand_only_where_there_is_no_spot() -> None:
    behind = job(done_s=50.0)  # expected at 90 s: 60
    assert scale(seen(90.0, (), behind))[0] == ["spot-a"], "spot is asked for first"
    assert scale(seen(90.0, (), behind), REFUSED)[0] == ["sure"]
    both = (host("s", True), host("d", False))
    assert decide(RULE, seen(90.0, both, behind)) == {"j": ("s",)}
    assert decide(RULE, seen(90.0, (both[1],), behind)) == {"j": ("d",)}


def test_rule_1_idle_and_ahead_waits_and_goes_on_asking_for_spot() -> None:
    ahead = job(done_s=70.0)
    assert scale(seen(90.0, (), ahead), REFUSED)[0] == ["spot-a"]
    assert decide(RULE, seen(90.0, (host("d", False),), ahead)) == {}
    assert scale(seen(90.0, (host("d", False),), ahead), REFUSED)[1] == ["d"], "nobody wants it"


def test_rule_2_on_spot_it_stays_however_far_behind() -> None:
    held = (host("s", True, "j"), host("d", False))
    late = job(done_s=100.0, host="s")
    assert decide(RULE, seen(590.0, held, late)) == {}
    assert scale(seen(590.0, held, late))[:2] == ([], ["d"])


@pytest.mark.parametrize(("done_s", "stays"), [(255.0, True), (257.0, False)])
def test_rule_3_on_demand_until_ahead_by_two_changeovers(done_s: float, stays: bool) -> None:
    """At 90 s, 294.2 s ahead: expected is (90 + 294.2) * 2 / 3 = 256.1."""
    held = seen(90.0, (host("d", False, "j"),), job(done_s=done_s, host="d"))
    assert decide(RULE, held) == ({} if stays else {"j": ()})
    assert scale(held)[0] == ([] if stays else ["spot-a"])


@pytest.mark.parametrize(("slack_s", "is_locked"), [(353.0, True), (356.0, False)])
def test_rule_4_the_safety_net(slack_s: float, is_locked: bool) -> None:
    """R < C + 2d + gap: 354.2 s. Spot is not even asked for, though it is there."""
    idle = job(deadline_at_s=1000.0 + slack_s)
    both = (host("s", True), host("d", False))
    assert scale(seen(0.0, (), idle))[0] == (["sure"] if is_locked else ["spot-a"])
    assert decide(RULE, seen(0.0, both, idle)) == {"j": ("d",) if is_locked else ("s",)}


def test_rule_4_holds_to_the_end() -> None:
    """On demand with little slack, and far ahead of uniform progress."""
    near = job(done_s=900.0, host="d", deadline_at_s=1200.0)
    held = seen(900.0, (host("d", False, "j"), host("s", True)), near)
    assert decide(RULE, held) == {}
    assert scale(held)[0] == []


def test_each_job_has_a_machine_of_its_own_and_what_starts_counts() -> None:
    two = [job("a"), job("b")]
    launched, _, state = scale(seen(0.0, (), *two))
    assert launched == ["spot-a", "spot-b"], "spread over the zones"
    starting = (host("s0", True), host("s1", True, zone="b"))
    launched, drained, state = scale(seen(60.0, (), *two, pending=starting), state)
    assert (launched, drained, state.refused) == ([], [], ())
    assert decide(RULE, seen(60.0, starting, *two)) == {"a": ("s0",), "b": ("s1",)}


def test_a_zone_whose_machine_does_not_come_is_refused_until_one_does() -> None:
    idle = job(deadline_at_s=5000.0)
    launched, _, state = scale(seen(0.0, (), idle))
    assert launched == ["spot-a"]
    launched, _, state = scale(seen(0.1, (), idle), state)
    assert (launched, state.refused) == (["spot-b"], ("spot-a",))
    starting = (host("s0", True),)
    asked = dataclasses.replace(state, asked=("spot-a",))
    assert scale(seen(60.0, (), idle, pending=starting), asked)[2].refused == ()


def test_a_spot_machine_that_does_not_start_is_given_up() -> None:
    idle, starting = job(deadline_at_s=9000.0), (host("s0", True),)
    state = scale(seen(0.0, (), idle, pending=starting))[2]
    assert scale(seen(599.0, (), idle, pending=starting), state)[1] == []
    _, drained, after = scale(seen(600.0, (), idle, pending=starting), state)
    assert drained == ["s0"]
    assert "spot-a" in after.refused


def test_limits_hold() -> None:
    rule = UniformProgress(STEPS, limits=AutoscaleSettings(max_hosts=2))
    jobs = [job(name, deadline_at_s=1100.0) for name in "abc"]
    assert scale(seen(0.0, (), *jobs), rule=rule)[0] == ["sure", "sure"]


def test_a_fixed_number_is_launched_once_and_made_good() -> None:
    rule, state = FixedNumber(num_hosts=3), SteadyState()
    assert len(rule.scale(seen(0.0, (), job()), state)[0]) == 3
    assert rule.scale(seen(0.0, (host("d", False),), job(), pending=(host("e", False),)), state)[0] == [
        LaunchHost(base="b", device_type="cpu", host_type="sure")
    ]
    assert rule.scale(seen(0.0, ()), state)[0] == [], "nothing is known of a base before there is a job"


def test_a_queue_threshold_follows_the_queue_and_lets_idle_hosts_go_after_a_while() -> None:
    rule, state = QueueThreshold(jobs_per_host=2, down_delay_s=120.0), SteadyState()
    actions, state = rule.scale(seen(0.0, (), *(job(n) for n in "abcde")), state)
    assert [a.host_type for a in actions if isinstance(a, LaunchHost)] == ["sure"] * 3
    held = (host("d", False, "a"), host("e", False), host("f", False))
    for now_s, gone in ((60.0, []), (170.0, []), (180.0, ["e", "f"])):
        actions, state = rule.scale(seen(now_s, held, job("a", host="d")), state)
        assert [a.host for a in actions if isinstance(a, DrainHost)] == gone
