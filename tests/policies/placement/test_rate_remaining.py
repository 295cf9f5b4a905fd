"""The rule of `ours`: what it shares, preempts and leaves alone, and what it keeps under any cluster."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.policies.contract import load_policy, validate_actions
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.placement.colocation_group import ColocationGroup, GroupMember
from mlora_ray.policies.placement.job_value import WorthSettings
from mlora_ray.policies.placement.rate_remaining import OursSettings, RateRemaining
from mlora_ray.policies.placement.slowest_percentile import SlowestPercentile
from mlora_ray.types import AdapterView, ClusterView, HostView, JobState, Migrate, Pause, Place, PolicyState
from tests.builders.views import STEPS, adapter, decide, hosts, view

OURS = RateRemaining(STEPS)


def ours(**values: object) -> RateRemaining:
    return RateRemaining(STEPS, OursSettings(worth=WorthSettings(**values)))  # type: ignore[arg-type]


def test_small_steps_share_and_full_ones_take_turns_by_what_is_left() -> None:
    """100 tokens beside 100 cost a millisecond; 500 beside 500 would double the step."""
    small = [adapter("a", host="h0", step_tokens=100), adapter("b", step_tokens=100)]
    assert decide(OURS, view(hosts(1), *small)) == {"b": ("h0",)}
    full = [adapter("a", left_s=900, host="h0"), adapter("b", left_s=1000)]
    assert decide(OURS, view(hosts(1), *full)) == {}
    assert decide(OURS, view(hosts(1), full[0], adapter("s", left_s=100))) == {"a": (), "s": ("h0",)}


def test_the_margin_keeps_from_going_to_and_fro() -> None:
    running = adapter("a", left_s=900, host="h0")
    assert decide(OURS, view(hosts(1), running, adapter("b", left_s=700))) == {}
    assert "b" in decide(OURS, view(hosts(1), running, adapter("b", left_s=600)))


def test_idle_devices_first_and_the_group_that_costs_least() -> None:
    on = [adapter(f"a{at}", host="h0", step_tokens=100, left_s=9999) for at in range(2)]
    on.append(adapter("alone", host="h1", step_tokens=100, left_s=9999))
    assert decide(OURS, view(hosts(3), *on, adapter("new", step_tokens=100))) == {"new": ("h2",)}
    assert decide(OURS, view(hosts(2), *on, adapter("new", step_tokens=100))) == {"new": ("h1",)}


def test_an_idle_device_takes_who_saves_most_and_widens_the_wide() -> None:
    pair = [adapter("a", host="h0", left_s=500), adapter("b", host="h0", left_s=2000)]
    assert len(decide(OURS, view(hosts(2), *pair))) == 1
    wide = adapter("w", host="h0", width=3, left_s=3000)
    assert decide(OURS, view(hosts(3), wide)) == {"w": ("h0", "h1", "h2")}
    short = adapter("w", host="h0", width=3, left_s=10)
    assert decide(OURS, view(hosts(3), short)) == {}, "a move would cost more than it saves"


def test_who_may_be_among_the_slowest_is_hardly_slowed() -> None:
    """450 tokens of a long job beside 150 of a short one: 62 ms, 1.2 times as slow."""
    long, short = adapter("l", left_s=50_000, host="h0", step_tokens=450), adapter("s", left_s=1000, step_tokens=150)
    others = [adapter(f"o{at}", left_s=10, state=JobState.PAUSED) for at in range(3)]
    tight = RateRemaining(STEPS, OursSettings(is_preempting=False))
    loose = RateRemaining(STEPS, OursSettings(is_preempting=False, worth=WorthSettings(tight_slowdown=4.0)))
    assert decide(loose, view(hosts(1), long, short, *others)) == {"s": ("h0",)}
    assert decide(tight, view(hosts(1), long, short, *others)) == {}


def test_priority_deadline_promise_and_age_move_an_adapter_up() -> None:
    first, second = adapter("a", left_s=1000), adapter("b", left_s=1500)

    def chosen(policy: RateRemaining, *adapters: AdapterView, now_s: float = 1000.0) -> str:
        return next(iter(decide(policy, view(hosts(1), *adapters, now_s=now_s))))

    assert chosen(OURS, first, second) == "a"
    assert chosen(OURS, first, dataclasses.replace(second, priority=1)) == "b"
    assert chosen(OURS, first, dataclasses.replace(second, deadline_at_s=2600.0)) == "b", "100 s of slack"
    assert chosen(OURS, first, dataclasses.replace(second, deadline_at_s=9000.0)) == "a", "time enough"
    assert chosen(OURS, first, dataclasses.replace(second, deadline_at_s=2400.0)) == "a", "too late anyway"
    young = dataclasses.replace(first, submitted_at_s=14_000.0)
    assert chosen(OURS, young, second, now_s=14_100.0) == "b", "promised: no more than ten times as long as alone"
    assert chosen(ours(promised_slowdown=1e9), young, second, now_s=14_100.0) == "a"
    assert chosen(ours(promised_slowdown=1e9, ageing=1.0), young, second, now_s=14_100.0) == "b"


def test_a_tenant_that_has_less_than_its_share_goes_first() -> None:
    running = [adapter(f"r{at}", host=f"h{at}", tenant="rich", left_s=100) for at in range(2)]
    queue = [adapter("rich", left_s=1000, tenant="rich"), adapter("poor", left_s=1500, tenant="poor")]
    seen = view(hosts(3), *running, *queue)
    assert decide(ours(tenant_power=1.0), seen) == {"poor": ("h2",)}
    assert decide(OURS, seen) == {"rich": ("h2",)}
    shares = ours(tenant_power=1.0, tenant_shares=(("rich", 8.0),))
    assert decide(shares, seen) == {"rich": ("h2",)}


def test_unknown_sizes_count_as_what_they_have_had() -> None:
    had = adapter("had", host="h0", done_s=5000, tokens_total=None)
    assert decide(OURS, view(hosts(1), had, adapter("new", tokens_total=None))) == {"had": (), "new": ("h0",)}
    outran = adapter("x", host="h0", done_s=5000, tokens_total=10)
    assert decide(OURS, view(hosts(1), outran, adapter("new", left_s=600))) == {}, "a tenth of what it did is left"


def test_bases_device_types_and_memory_are_kept() -> None:
    room = (*hosts(1, free_bytes=50), *hosts(1, id="other", base="c"), *hosts(1, id="gpu", device_type="cuda"))
    seen = view(
        room,
        adapter("big", state_bytes=60, device_type=""),
        adapter("c", base="c"),
        adapter("cuda", device_type="cuda"),
        adapter("small", state_bytes=40, left_s=2000),
        adapter("beside", state_bytes=40, left_s=3000, step_tokens=10),
    )
    assert decide(OURS, seen) == {"c": ("other",), "big": ("gpu",), "small": ("h0",), "beside": ("gpu",)}


def test_numerics_bind_who_has_begun() -> None:
    room = (*hosts(1, numerics="n1"), *hosts(1, id="x", numerics="n2"))
    assert decide(OURS, view(room, adapter("a", numerics="n2"))) == {"a": ("x",)}
    assert decide(OURS, view(room[:1], adapter("a", numerics="n2"))) == {}


def test_spot_goes_to_who_has_no_deadline() -> None:
    room = (*hosts(1, is_spot=True), *hosts(1, id="sure"))
    assert decide(OURS, view(room, adapter("d", deadline_at_s=9e9))) == {"d": ("sure",)}
    assert decide(OURS, view(room[::-1], adapter("n"))) == {"n": ("h0",)}


def test_whoever_is_on_a_draining_host_leaves() -> None:
    room = (*hosts(1), *hosts(1, id="old", state="draining", leaves_at_s=1100.0))
    assert decide(OURS, view(room, adapter("a", host="old"))) == {"a": ("h0",)}
    assert decide(OURS, view(room, adapter("on", host="h0", left_s=10), adapter("a", host="old"))) == {"a": ()}


def test_groups_add_up_and_seed_and_add_is_the_best_of_all_subsets() -> None:
    group = ColocationGroup("h", STEPS.default)
    members = [_member(f"m{at}", tokens, left) for at, (tokens, left) in enumerate([(100, 50), (300, 900), (200, 10)])]
    for one in members:
        group.add(one)
    assert group.tokens == 600
    assert group.value == pytest.approx(sum(m.worth for m in members) / (0.06 + 0.003))
    group.remove("m1")
    assert (group.tokens, group.num, len(group.members)) == (300, 2, 2)
    for one in members:
        if one.adapter.id in group.members:
            group.remove(one.adapter.id)
    assert (group.value, group.step_s, group.num) == (0, 0, 0)


def _member(name: str, tokens: float, left_s: float) -> GroupMember:
    one = adapter(name, left_s=left_s, step_tokens=tokens)
    alone_s = STEPS.default.step_s(tokens)
    return GroupMember(one, alone_s / left_s, 1 / left_s, 4 * alone_s)


def test_the_tail_follows_who_comes_and_goes() -> None:
    """99 short ones and a long one: the limit is the longest; once it has ended it still counts."""
    short = [adapter(f"s{at}", submitted_s=float(at)) for at in range(99)]
    long = adapter("l", submitted_s=99.0)
    seen = view((), *short, long)
    tail = SlowestPercentile(PolicyState(), seen, {**{a.id: 10.0 for a in short}, "l": 500.0})
    assert tail.limit_s == 10.0, "a hundredth of 100 is one: the second slowest"
    later = view((), *short)
    tail = SlowestPercentile(tail.state(), later, {a.id: 10.0 for a in short})
    again = SlowestPercentile(tail.state(), later, {**{a.id: 10.0 for a in short}, "s5": 700.0})
    assert again.limit_s == 500.0
    assert again.pressure("s5") == pytest.approx(1.4)
    assert dict(again.state().items)["count"] == 100


hosts_of = st.lists(
    st.builds(
        HostView,
        id=st.sampled_from([f"h{at}" for at in range(6)]),
        base=st.sampled_from(["b", "c"]),
        device_type=st.sampled_from(["cpu", "cuda"]),
        state=st.sampled_from(["alive", "alive", "draining"]),
        free_bytes=st.sampled_from([0, 5, 15, 35]),
        is_spot=st.booleans(),
        numerics=st.sampled_from(["", "n"]),
    ),
    unique_by=lambda h: h.id,
)


@st.composite
def clusters(draw: st.DrawFn) -> ClusterView:
    """Any cluster whose adapters are where they may be."""
    room = draw(hosts_of)
    adapters = []
    for at in range(draw(st.integers(0, 12))):
        device_type, numerics = draw(st.sampled_from(["", "cpu"])), draw(st.sampled_from(["", "n", "m"]))
        alike = [h for h in room if h.base == "b" and device_type in ("", h.device_type)]
        fitting = [h for h in alike if numerics in ("", h.numerics)]
        width = draw(st.sampled_from([1, 1, 2, 3]))
        count = draw(st.integers(0, min(width, len(fitting))))
        held = [h.id for h in draw(st.permutations(fitting))[:count]]
        plain = adapter(
            f"a{at}",
            left_s=draw(st.sampled_from([1.0, 100.0, 5000.0])),
            submitted_s=draw(st.sampled_from([0.0, 500.0])),
            step_tokens=draw(st.sampled_from([20.0, 300.0, 4000.0])),
            state_bytes=draw(st.sampled_from([0, 10])),
            device_type=device_type,
            numerics=numerics,
            priority=draw(st.sampled_from([0, 1])),
            tenant=draw(st.sampled_from(["t", "u"])),
            deadline_at_s=draw(st.sampled_from([None, 1200.0])),
            width=width,
            host=held[0] if held else None,
            shards=tuple(held[1:]),
        )
        gone = draw(st.sampled_from([None, None, JobState.PAUSED, JobState.SUCCEEDED, JobState.MIGRATING]))
        adapters.append(dataclasses.replace(plain, state=gone) if gone else plain)
    return view(tuple(room), *adapters)


NAMES = [
    "rate-remaining",
    "rate-remaining-no-fusion",
    "rate-remaining-no-preemption",
    "independent",
    "backfill",
    "srpt",
    "las",
    "timeslice",
]
NAMES += ["on-time", "mlora-optimal-fit", "mlora-trivial", "mlora-fast-fit", "tlora-1.3", "tlora-2.0"]


@settings(max_examples=60, deadline=None)
@given(clusters(), st.sampled_from(NAMES), st.sampled_from([STEPS, StepTimes()]))
def test_every_policy_keeps_every_invariant(seen: ClusterView, name: str, step_times: StepTimes) -> None:
    policy = load_policy(name, step_times)
    actions, state = policy.decide(seen, PolicyState())
    assert policy.decide(seen, PolicyState()) == (actions, state), "pure"
    assert validate_actions(seen, actions) == (actions, [])
    known = {a.id: a for a in seen.adapters}
    hosts_by_id = {h.id: h for h in seen.hosts}
    taken = {h.id: 0 for h in seen.hosts}
    for action in actions:
        assert isinstance(action, Place | Migrate | Pause)
        one = known[action.adapter]
        assert one.state in (JobState.QUEUED, JobState.PLACED, JobState.TRAINING)
        if isinstance(action, Pause):
            continue
        for host in {action.host, *action.shards} - {one.host, *one.shards}:
            taken[host] += one.state_bytes
    leaving = {h: sum(known[a.adapter].state_bytes for a in actions if known[a.adapter].host == h) for h in taken}
    assert all(taken[h] <= h_.free_bytes + leaving[h] for h, h_ in hosts_by_id.items() if h_.free_bytes)


def test_the_guard_holds_from_its_share_up_to_the_limit_and_not_past_it() -> None:
    """Of 100 jobs the second slowest sets the limit of 50,000 s; 40,000 s is guarded, 60,000 s is not."""
    others = [adapter(f"o{at}", left_s=1.0, submitted_s=999.0, base="c") for at in range(97)]
    first = adapter("slowest", left_s=59_000, base="c")
    second = adapter("limit", left_s=49_000, base="c")
    long, short = adapter("long", left_s=39_000), adapter("short", left_s=5_000, submitted_s=999.0)
    seen = view(hosts(1), *others, first, second, long, short)
    assert decide(ours(guard_s=0.0), seen) == {"short": ("h0",)}
    assert decide(OURS, seen) == decide(ours(guard_s=3600.0), seen) == {"long": ("h0",)}
    assert decide(ours(guard_s=3600.0, guard_share=0.9), seen) == {"short": ("h0",)}
    past = dataclasses.replace(first, id="past", base="b")
    again = view(hosts(1), *others, second, past, dataclasses.replace(short, submitted_at_s=998.0))
    assert decide(ours(guard_s=3600.0), again) == {"short": ("h0",)}


def test_a_tenth_of_the_hosts_is_for_those_in_danger_with_least_to_go() -> None:
    others = [adapter(f"o{at}", left_s=1.0, submitted_s=999.0, base="c") for at in range(95)]
    slow = [adapter("slowest", left_s=59_000, base="c"), adapter("limit", left_s=49_000, base="c")]
    danger = [adapter("more", left_s=39_500), adapter("less", left_s=39_000)]
    short = adapter("short", left_s=5_000, submitted_s=999.0)
    assert decide(OURS, view(hosts(1), *others, *slow, *danger, short)) == {"less": ("h0",)}
    few = view(hosts(1), *others[:50], *slow, *danger, short)
    assert decide(OURS, few) == {"short": ("h0",)}, "of a few jobs the slowest is no tail"
