"""The autoscaler in a cluster that does what it says, and its promises under random ones."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.policies.contract import validate_actions
from mlora_ray.policies.scaling.autoscale import PROFILES, AutoscaleState, decide
from mlora_ray.policies.scaling.demand import why_no_host
from mlora_ray.types import (
    Action,
    AutoscaleSettings,
    ClusterView,
    DrainHost,
    HostType,
    JobState,
    LaunchHost,
    serialization,
)
from tests.policies.scaling.autoscale_world import GPU, SPOT, STEADY, World, make_host, make_job

SETTINGS = AutoscaleSettings(max_hosts=6, jobs_per_host=4, target_wait_s=300.0, down_delay_s=120.0)


def names(number: int, prefix: str = "job") -> list[str]:
    return [f"{prefix}-{i:02d}" for i in range(number)]


def only(*kinds: HostType, **limits: int) -> tuple[HostType, ...]:
    return tuple(dataclasses.replace(kind, max_hosts=limits.get(kind.name, kind.max_hosts)) for kind in kinds)


# -- up


def test_nothing_to_do_needs_no_host() -> None:
    assert decide(ClusterView(now_s=0.0, host_types=(STEADY,)), SETTINGS, AutoscaleState())[0] == []


def test_before_any_speed_is_known_jobs_are_counted() -> None:
    world = World(SETTINGS)
    world.submit(*names(9))
    world.tick()
    assert [a[1] for a in world.log] == ["launch"] * 3  # 9 jobs, 4 a host
    world.run(30)
    assert len(world.log) == 3  # those that start count


def test_with_a_speed_the_work_left_decides() -> None:
    """Six jobs of 40,000 tokens at 100 tokens/s a host: 2,400 host-seconds; in 1,000 s that takes three hosts."""
    world = World(dataclasses.replace(SETTINGS, jobs_per_host=6, target_wait_s=1000.0), boot_s=1.0)
    world.submit(*names(6), tokens_total=40_000)
    world.run(20)
    assert len(world.staying) == 1
    world.run(60)
    assert len(world.staying) == 3


def test_more_hosts_than_jobs_help_nobody() -> None:
    world = World(dataclasses.replace(SETTINGS, target_wait_s=1.0), boot_s=1.0)
    world.submit(*names(2), tokens_total=10_000_000)
    world.run(120)
    assert len(world.staying) == 2


def test_a_need_must_have_stood_for_up_delay() -> None:
    world = World(dataclasses.replace(SETTINGS, up_delay_s=30.0))
    world.submit("job")
    world.run(29)
    assert world.log == []
    world.jobs["job"] = dataclasses.replace(world.jobs["job"], state=JobState.PAUSED)  # pausing counts for nothing
    world.tick()
    world.jobs["job"] = dataclasses.replace(world.jobs["job"], state=JobState.QUEUED)
    world.run(29)
    assert world.log == []
    world.run(5)
    assert world.counts("launch") == 1


def test_a_lost_host_is_replaced_at_once() -> None:
    world = World(dataclasses.replace(SETTINGS, up_delay_s=30.0), boot_s=5.0)
    world.submit(*names(8), tokens_total=10_000_000)
    world.run(60)
    assert len(world.alive) == 2
    world.lose(world.alive[0].id)
    world.tick()
    assert [(what, host) for _, what, host in world.log[2:]] == [("launch", "host-2")]


def test_a_host_that_is_about_to_vanish_is_replaced_at_once() -> None:
    world = World(dataclasses.replace(SETTINGS, up_delay_s=30.0), boot_s=5.0)
    world.submit("job", tokens_total=10_000_000)
    world.run(60)
    world.hosts["host-0"] = dataclasses.replace(world.hosts["host-0"], state="draining", leaves_at_s=world.now_s + 60)
    world.tick()
    assert [h.id for h in world.pending] == ["host-1"]


def test_a_loss_that_the_budget_keeps_out_is_made_good_when_there_is_room() -> None:
    world = World(dataclasses.replace(SETTINGS, up_delay_s=30.0, max_hosts=1), boot_s=5.0)
    world.submit("job", tokens_total=10_000_000)
    world.run(60)
    world.hosts["host-0"] = dataclasses.replace(world.hosts["host-0"], state="draining")
    world.run(5)
    assert world.pending == []  # it still counts
    world.lose("host-0")
    world.tick()
    assert [h.id for h in world.pending] == ["host-1"]


# -- which host


def test_a_job_gets_a_host_of_its_device() -> None:
    world = World(SETTINGS, (STEADY, GPU))
    world.submit("any")
    world.submit("gpu", device_type="cuda")
    world.tick()
    assert [h.host_type for h in world.staying] == ["gpu"]  # it can take both
    world.submit("cpu", device_type="cpu")
    world.tick()
    assert [h.host_type for h in world.staying] == ["gpu", "steady"]


def test_jobs_that_leave_the_device_open_wait_for_a_gpu_where_there_may_be_one() -> None:
    world = World(SETTINGS, only(STEADY, GPU, gpu=1))
    world.submit(*names(20))
    world.run(9)
    assert [h.host_type for h in world.staying] == ["gpu"]
    world = World(dataclasses.replace(SETTINGS, max_cost_per_hour=5.0), (STEADY, GPU))  # never a GPU
    world.submit("any")
    world.run(9)
    assert [h.host_type for h in world.staying] == ["steady"]
    begun = make_job("begun", numerics="bits of steady")
    view = ClusterView(now_s=0.0, adapters=(begun,), host_types=(STEADY, GPU))
    known = AutoscaleState(numerics=(("gpu", "bits of gpu"), ("steady", "bits of steady")))
    assert [a.host_type for a in decide(view, SETTINGS, known)[0] if isinstance(a, LaunchHost)] == ["steady"]


def test_a_job_that_has_begun_gets_hosts_that_compute_its_bits() -> None:
    """The cheap type is known to compute others."""
    job = make_job("job", numerics="bits of steady")
    state = AutoscaleState(numerics=(("spot", "bits of spot"), ("steady", "bits of steady")))
    view = ClusterView(now_s=9.0, adapters=(job,), host_types=(SPOT, STEADY))
    share = dataclasses.replace(SETTINGS, spot_share=1.0)
    assert [a.host_type for a in decide(view, share, state)[0] if isinstance(a, LaunchHost)] == ["steady"]
    unknown = dataclasses.replace(state, numerics=())
    assert [a.host_type for a in decide(view, share, unknown)[0] if isinstance(a, LaunchHost)] == ["spot"]
    nobody = dataclasses.replace(state, numerics=(("spot", "x"), ("steady", "y")))
    assert decide(view, share, nobody)[0] == []
    # An idle host of other numerics is no help, one of the same is all it takes.
    wrong = dataclasses.replace(view, hosts=(make_host("h", numerics="bits of spot", host_type="spot"),))
    assert [a for a in decide(wrong, share, state)[0] if isinstance(a, LaunchHost)] != []
    right = dataclasses.replace(view, hosts=(make_host("h", numerics="bits of steady"),))
    assert [a for a in decide(right, share, state)[0] if isinstance(a, LaunchHost)] == []


def test_hosts_beside_those_that_work_compute_the_same_bits() -> None:
    """Jobs begin on the host there is while the next one starts: it must be able to take them over."""
    world = World(dataclasses.replace(SETTINGS, spot_share=1.0), only(SPOT, STEADY, spot=1), boot_s=20.0)
    world.submit("first", tokens_total=10_000_000)
    world.run(25)
    world.host_types = {t.name: t for t in (SPOT, STEADY)}
    world.submit(*names(7), tokens_total=10_000_000)
    world.run(60)
    assert {h.host_type for h in world.alive} == {"spot"}
    assert len(world.alive) == 6
    assert {j.host for j in world.jobs.values()} == {h.id for h in world.alive}


@pytest.mark.parametrize(("share", "spot", "steady"), [(0.0, 0, 6), (0.5, 3, 3), (0.7, 4, 2), (1.0, 6, 0)])
def test_spot_share(share: float, spot: int, steady: int) -> None:
    world = World(dataclasses.replace(SETTINGS, spot_share=share), (SPOT, STEADY))
    world.submit(*names(24))
    world.tick()
    kinds = [h.host_type for h in world.staying]
    assert (kinds.count("spot"), kinds.count("steady")) == (spot, steady)


def test_spot_that_has_run_out_is_made_up_on_demand_and_never_the_other_way() -> None:
    world = World(dataclasses.replace(SETTINGS, spot_share=1.0), only(SPOT, STEADY, spot=2))
    world.submit(*names(24))
    world.tick()
    assert sorted(h.host_type for h in world.staying) == ["spot", "spot", "steady", "steady", "steady", "steady"]
    world = World(SETTINGS, only(SPOT, STEADY, steady=2))
    world.submit(*names(24))
    world.run(9)
    assert [h.host_type for h in world.staying] == ["steady", "steady"]
    world = World(SETTINGS, (SPOT,))  # nothing else there is: the share says nothing
    world.submit("job")
    world.tick()
    assert [h.host_type for h in world.staying] == ["spot"]


def test_spot_that_does_not_start_is_given_up_and_tried_again_later() -> None:
    patience = dataclasses.replace(SETTINGS, spot_share=1.0, start_patience_s=100.0, jobs_per_host=1)
    world = World(patience, (SPOT, STEADY), boot_s=5.0)
    world.boot_times["spot"] = 1e9
    world.submit(*names(2), tokens_total=10_000_000)
    world.run(99)
    assert [h.host_type for h in world.pending] == ["spot", "spot"]
    world.run(10)
    assert [h.host_type for h in world.staying] == ["steady", "steady"]
    world.run(300)
    assert (len(world.alive), len(world.log)) == (2, 6)  # they train, and nobody tries spot for no need
    world.boot_times.clear()
    world.submit("new", base="b2", tokens_total=10_000_000)
    world.run(20)
    assert sorted(h.host_type for h in world.alive) == ["spot", "steady", "steady"]


def test_among_equals_the_cheapest_for_its_speed() -> None:
    slow = dataclasses.replace(STEADY, name="slow", price_per_hour=2.0)
    view = ClusterView(now_s=100.0, adapters=(make_job("job"),), host_types=(slow, STEADY))
    assert decide(view, SETTINGS, AutoscaleState())[0][0] == LaunchHost(base="b1", device_type="cpu", host_type="slow")
    fast = AutoscaleState(rates=(("b1", "slow", 10.0, 0.0), ("b1", "steady", 100.0, 0.0)))
    assert decide(view, SETTINGS, fast)[0][0] == LaunchHost(base="b1", device_type="cpu", host_type="steady")
    dear = dataclasses.replace(view, prices=(("steady", 50.0),))  # today's prices win over the type's
    assert decide(dear, SETTINGS, fast)[0][0] == LaunchHost(base="b1", device_type="cpu", host_type="slow")


def test_the_budget_in_money_picks_what_it_can_pay() -> None:
    world = World(dataclasses.replace(SETTINGS, max_cost_per_hour=7.5), (SPOT, STEADY))
    world.submit(*names(24))
    world.run(9)
    assert [h.host_type for h in world.staying] == ["steady", "steady"]
    world = World(dataclasses.replace(SETTINGS, max_cost_per_hour=2.0), (STEADY,))
    world.submit("job")
    world.run(9)
    assert world.log == []  # one alone passes it


def test_why_no_host() -> None:
    free = AutoscaleSettings()
    assert why_no_host("", "b1", (STEADY,), free) == why_no_host("cuda", "b1", (STEADY, GPU), free) == ""
    assert why_no_host("cuda", "b1", (STEADY, SPOT), free) == (
        "no host type has device cuda for b1; there are: steady (cpu), spot (cpu)"
    )
    assert "no host type has device cuda" in why_no_host("cuda", "b1", only(STEADY, GPU, gpu=0), free)
    assert "no host type may have a host" in why_no_host("", "b1", only(STEADY, steady=0), free)
    poor = AutoscaleSettings(max_cost_per_hour=GPU.price_per_hour - 0.5)
    assert "no host type has device cuda" in why_no_host("cuda", "b1", (STEADY, GPU), poor)
    assert why_no_host("cuda", "b1", (STEADY, GPU), AutoscaleSettings(max_cost_per_hour=GPU.price_per_hour)) == ""


# -- down


def test_to_zero_when_idle() -> None:
    world = World(SETTINGS, boot_s=5.0)
    world.submit(*names(12), tokens_total=2000)
    world.run(5)
    assert len(world.staying) == 3
    world.run(300)
    assert all(j.state is JobState.SUCCEEDED for j in world.jobs.values())
    assert world.hosts == {}
    last = max(at_s for at_s, what, _ in world.log if what == "drain")
    ended = max(at_s for at_s, what, _ in world.log if what == "launch") + 5 + 80  # 8,000 tokens a host at 100/s
    assert last - ended == pytest.approx(SETTINGS.down_delay_s, abs=5)


def test_a_job_in_time_keeps_the_host() -> None:
    world = World(SETTINGS, boot_s=1.0)
    for number in range(5):  # each takes a second, and comes before the delay is over
        world.submit(f"job-{number}", tokens_total=100)
        world.run(100)
    assert [what for _, what, _ in world.log] == ["launch"]


def test_min_hosts_stay_for_the_base_that_had_work_last() -> None:
    world = World(dataclasses.replace(SETTINGS, min_hosts=2), boot_s=1.0)
    world.submit(*names(12), tokens_total=100)
    world.run(400)
    assert (len(world.staying), {h.base for h in world.staying}) == (2, {"b1"})
    world.submit("other", base="b2", tokens_total=100)
    world.run(400)
    assert {h.base for h in world.staying} == {"b2"}
    assert len(world.staying) == 2
    world.lose(world.staying[0].id)
    world.run(3)
    assert len(world.staying) == 2


def busy_view(*hosts: str, jobs: dict[str, str], **values: object) -> ClusterView:
    return ClusterView(
        now_s=1000.0,
        hosts=tuple(make_host(h, numerics="bits") for h in hosts),
        adapters=tuple(make_job(j, host=h, state=JobState.TRAINING, numerics="bits") for j, h in jobs.items()),
        host_types=(STEADY,),
    )


def test_the_emptiest_host_goes_and_only_where_its_jobs_fit_elsewhere() -> None:
    since = AutoscaleState(spare_since=(("b1", (0.0,)),))
    view = busy_view("h1", "h2", jobs={"a": "h1", "b": "h1", "c": "h2"})
    assert decide(view, SETTINGS, since)[0] == [DrainHost(host="h2")]
    assert decide(view, SETTINGS, AutoscaleState())[0] == []  # not for long enough
    full = dataclasses.replace(view.hosts[0], free_bytes=5)
    assert decide(dataclasses.replace(view, hosts=(full, view.hosts[1])), SETTINGS, since)[0] == []
    other = dataclasses.replace(view.hosts[0], numerics="other bits")
    assert (
        DrainHost(host="h2") not in decide(dataclasses.replace(view, hosts=(other, view.hosts[1])), SETTINGS, since)[0]
    )
    starting = dataclasses.replace(view, hosts=(view.hosts[1],), pending_hosts=(make_host("h1"),))
    assert decide(starting, SETTINGS, since)[0] == [DrainHost(host="h1")]  # not yet there: it is the emptier


def test_of_equals_the_dearest_goes() -> None:
    view = busy_view("h1", "h2", jobs={"a": "h1", "b": "h2"})
    cheap = dataclasses.replace(view.hosts[1], host_type="spot")
    view = dataclasses.replace(view, hosts=(view.hosts[0], cheap), host_types=(SPOT, STEADY))
    since = AutoscaleState(spare_since=(("b1", (0.0,)),))
    assert decide(view, SETTINGS, since)[0] == [DrainHost(host="h1")]


def test_a_budget_that_was_lowered_is_kept_again_at_once() -> None:
    view = busy_view("h1", "h2", "h3", jobs={"a": "h1", "b": "h2", "c": "h3", "d": "h1"})
    lowered = dataclasses.replace(SETTINGS, max_hosts=1, jobs_per_host=1)
    actions, state = decide(view, lowered, AutoscaleState())
    assert actions == [DrainHost(host="h3"), DrainHost(host="h2")]
    assert decide(view, lowered, state)[0] == [DrainHost(host="h2"), DrainHost(host="h3")]  # said again, no other
    dear = dataclasses.replace(SETTINGS, max_cost_per_hour=6.0, jobs_per_host=1)
    assert decide(view, dear, AutoscaleState())[0] == [DrainHost(host="h3")]


# -- bases take turns


def test_an_idle_host_makes_room_for_a_base_that_starves() -> None:
    world = World(dataclasses.replace(SETTINGS, max_hosts=1, min_hosts=1, down_delay_s=9999.0), boot_s=1.0)
    world.submit("first", tokens_total=100)
    world.run(30)
    assert [h.base for h in world.alive] == ["b1"]  # idle, warm
    world.submit("second", base="b2", tokens_total=1000)
    world.run(4)
    assert (world.counts("drain"), [h.base for h in world.hosts.values()]) == (1, ["b2"])
    world.run(30)
    assert world.jobs["second"].state is JobState.SUCCEEDED
    assert world.counts("launch") == 2


def test_a_busy_base_is_not_stopped_and_the_oldest_comes_next() -> None:
    world = World(dataclasses.replace(SETTINGS, max_hosts=1), boot_s=1.0)
    world.submit("a", tokens_total=20_000)
    world.run(3)
    world.submit("b", base="b3", tokens_total=10_000)
    world.run(3)
    world.submit("c", base="b2", tokens_total=10_000)
    for _ in range(500):
        world.tick()
        if world.jobs["a"].state is JobState.TRAINING:
            assert {h.base for h in world.hosts.values()} == {"b1"}
    assert [world.jobs[j].state for j in "abc"] == [JobState.SUCCEEDED] * 3
    order = [h for _, what, h in world.log if what == "launch"]
    assert order == ["host-0", "host-1", "host-2"]


def test_a_base_with_several_hosts_gives_one_after_target_wait() -> None:
    world = World(dataclasses.replace(SETTINGS, max_hosts=3, target_wait_s=200.0), boot_s=1.0)
    world.submit(*names(12), tokens_total=10_000_000)
    world.run(60)
    assert len(world.alive) == 3
    world.submit("other", base="b2", tokens_total=1_000_000)
    world.run(150)
    assert {h.base for h in world.hosts.values()} == {"b1"}
    world.run(100)
    assert sorted(h.base for h in world.staying) == ["b1", "b1", "b2"]
    launches = world.counts("launch")
    world.run(2000)
    assert world.counts("launch") == launches  # and that is that


def test_what_a_starving_base_needs_is_not_eaten_up_by_others() -> None:
    """The second base needs a dear host; the first wants more cheap ones all the time."""
    cheap, dear = STEADY, GPU
    world = World(dataclasses.replace(SETTINGS, max_cost_per_hour=14.0), (cheap, dear), boot_s=1.0)
    world.submit(*names(8), device_type="cpu", tokens_total=20_000)
    world.run(5)
    assert len(world.staying) == 2  # 6 of 14
    world.submit("gpu", base="b2", device_type="cuda", tokens_total=1000)
    world.submit(*names(16, "more"), device_type="cpu", tokens_total=20_000)
    for _ in range(900):
        world.tick()
        if world.jobs["gpu"].state is JobState.SUCCEEDED:
            break
    assert world.jobs["gpu"].state is JobState.SUCCEEDED


# -- promises under random clusters

bounds = st.builds(
    AutoscaleSettings,
    min_hosts=st.integers(0, 3),
    max_hosts=st.integers(0, 6),
    max_cost_per_hour=st.sampled_from([0.0, 0.5, 4.0, 10.0]),
    target_wait_s=st.sampled_from([0.0, 20.0, 300.0]),
    jobs_per_host=st.integers(1, 5),
    up_delay_s=st.sampled_from([0.0, 7.0]),
    down_delay_s=st.sampled_from([0.0, 15.0, 60.0]),
    spot_share=st.sampled_from([0.0, 0.5, 1.0]),
    is_forecasting=st.booleans(),
)
events = st.lists(
    st.tuples(
        st.sampled_from(["submit", "lose", "preempt", "pause", "resume", "lower"]),
        st.integers(0, 9),
        st.sampled_from(["b1", "b2", "b3"]),
        st.sampled_from(["", "cpu", "cuda"]),
        st.integers(1, 40),
    ),
    max_size=25,
)


def happen(world: World, what: str, number: int, base: str, device: str) -> None:
    """One event; those that name nothing there is do nothing."""
    hosts, jobs = sorted(world.hosts), sorted(world.jobs)
    if what == "submit":
        for i in range(number + 1):
            world.submit(f"{len(jobs)}-{i}", base=base, device_type=device, tokens_total=500 * (number + 1))
    elif what == "lose" and hosts:
        world.lose(hosts[number % len(hosts)])
    elif what == "preempt" and hosts:
        name = hosts[number % len(hosts)]
        world.hosts[name] = dataclasses.replace(world.hosts[name], state="draining")
        world.gone_at_s[name] = world.now_s + 9
    elif what in ("pause", "resume") and jobs:
        job = world.jobs[jobs[number % len(jobs)]]
        if not job.state.is_final:
            state = JobState.PAUSED if what == "pause" else JobState.QUEUED
            world.jobs[job.id] = dataclasses.replace(job, state=state, host=None)


@settings(max_examples=100, deadline=None)
@given(bounds, events)
def test_the_budget_is_never_passed_and_in_the_end_all_is_done_or_impossible(
    chosen: AutoscaleSettings, happenings: list[tuple[str, int, str, str, int]]
) -> None:
    """`World.tick` checks the budget each second. What is left over at the end is what no host could ever take."""
    world = World(chosen, only(SPOT, STEADY, GPU, spot=2, gpu=1), boot_s=5.0)
    for what, number, base, device, seconds in happenings:
        happen(world, what, number, base, device)
        world.run(seconds)
    for job in world.jobs.values():
        if job.state is JobState.PAUSED:
            world.jobs[job.id] = dataclasses.replace(job, state=JobState.QUEUED)
    world.tick_s = 2.0
    for _ in range(3000):
        left = [j for j in world.jobs.values() if not j.state.is_final]
        if all(_is_impossible(world, j.device_type, j.numerics) for j in left):
            break
        world.tick()
    else:
        pytest.fail(f"not done: {[j.id for j in left]}")
    world.run(2 * chosen.down_delay_s + 60)
    assert len(world.staying) <= chosen.min_hosts


def _is_impossible(world: World, device: str, numerics: str) -> bool:
    """No host type that fits the job fits into the empty cluster's budget."""
    most = world.settings.max_cost_per_hour
    return not any(
        (device in ("", t.device))
        and (not numerics or numerics == f"bits of {t.name}")
        and world.settings.max_hosts > 0
        and (most == 0 or t.price_per_hour <= most)
        for t in world.host_types.values()
    )


host_views = st.builds(
    make_host,
    st.sampled_from([f"h{i}" for i in range(8)]),
    base=st.sampled_from(["b1", "b2"]),
    host_type=st.sampled_from(["steady", "spot", "gpu", "of old"]),
    device_type=st.sampled_from(["cpu", "cuda"]),
    state=st.sampled_from(["alive", "draining", "dead"]),
    numerics=st.sampled_from(["", "x", "y"]),
    tokens_per_s=st.sampled_from([0.0, 5.0, 500.0]),
    free_bytes=st.sampled_from([0, 5, 50]),
)
job_views = st.builds(
    make_job,
    st.sampled_from([f"j{i}" for i in range(20)]),
    base=st.sampled_from(["b1", "b2", "b3"]),
    state=st.sampled_from(JobState),
    host=st.none() | st.sampled_from([f"h{i}" for i in range(8)]),
    device_type=st.sampled_from(["", "cpu", "cuda"]),
    numerics=st.sampled_from(["", "x", "y"]),
    tokens_total=st.none() | st.sampled_from([0, 100, 10_000_000]),
    tokens_done=st.integers(0, 200),
    submitted_at_s=st.sampled_from([0.0, 500.0, 5000.0]),
)
views = st.builds(
    ClusterView,
    now_s=st.sampled_from([0.0, 1000.0, 90_000.0]),
    hosts=st.lists(host_views, max_size=6, unique_by=lambda h: h.id).map(tuple),
    pending_hosts=st.lists(host_views, max_size=3, unique_by=lambda h: h.id).map(tuple),
    adapters=st.lists(job_views, max_size=12, unique_by=lambda a: a.id).map(tuple),
    host_types=st.sampled_from([(), (STEADY,), only(SPOT, STEADY, GPU, spot=2, gpu=1)]),
)


@settings(max_examples=100, deadline=None)
@given(bounds, st.lists(views, min_size=1, max_size=4))
def test_any_view_is_answered_within_the_budget_with_what_may_be_done(
    chosen: AutoscaleSettings, sequence: list[ClusterView]
) -> None:
    """Views that have nothing to do with each other; each decision is pure and goes through JSON and back."""
    state = AutoscaleState()
    for view in sequence:
        actions, following = decide(view, chosen, state)
        assert decide(view, chosen, serialization.loads(AutoscaleState, serialization.dumps(state))) == (
            actions,
            following,
        )
        assert serialization.loads(AutoscaleState, serialization.dumps(following)) == following
        assert [serialization.loads(Action, serialization.dumps(a)) for a in actions] == actions
        known = dataclasses.replace(view, hosts=(*view.hosts, *view.pending_hosts))
        assert validate_actions(known, actions)[1] == []
        drains = [a.host for a in actions if isinstance(a, DrainHost)]
        assert len(drains) == len(set(drains))
        _check_room(view, chosen, [a for a in actions if isinstance(a, LaunchHost)])
        state = following


def _check_room(view: ClusterView, chosen: AutoscaleSettings, launches: list[LaunchHost]) -> None:
    """Where anything is launched, everything there is and the new hosts are within every bound."""
    if not launches:
        return
    there = {h.id: h.host_type for h in (*view.pending_hosts, *view.hosts) if h.state != "dead"}
    kinds = [*there.values(), *(a.host_type for a in launches)]
    prices = {t.name: t.price_per_hour for t in view.host_types}
    assert len(kinds) <= chosen.max_hosts
    assert chosen.max_cost_per_hour == 0 or sum(prices.get(k, 0.0) for k in kinds) <= chosen.max_cost_per_hour + 1e-6
    for launch in launches:
        assert kinds.count(launch.host_type) <= next(t.max_hosts for t in view.host_types if t.name == launch.host_type)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 30),
    st.sampled_from([0.0, 5.0]),
    st.sampled_from([20.0, 60.0]),
    st.lists(st.floats(0.2, 1.0), min_size=1, max_size=7),
)
def test_a_constant_load_does_not_flap(jobs: int, up_delay_s: float, down_delay_s: float, speeds: list[float]) -> None:
    """Whatever the measured speeds do, hosts come and go no more often than the delays allow; steady ones never."""
    world = World(
        dataclasses.replace(
            SETTINGS, up_delay_s=up_delay_s, down_delay_s=down_delay_s, max_hosts=5, target_wait_s=5000.0
        ),
        boot_s=3.0,
    )
    world.submit(*names(jobs), tokens_total=100_000_000)
    seconds = 400
    for second in range(seconds):
        world.speed = 100.0 * speeds[second % len(speeds)]
        world.tick()
    kinds = [what for _, what, _ in world.log]
    alternations = sum(pair == ("drain", "launch") for pair in itertools.pairwise(kinds))
    assert alternations <= seconds / (up_delay_s + down_delay_s)
    world.speed = 100.0
    world.run(down_delay_s + up_delay_s + 60)
    before = len(world.log)
    world.run(300)
    assert len(world.log) == before


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_is_named_as_it_is_found(name: str) -> None:
    profile = PROFILES[name]
    assert profile.profile == name
    assert profile.min_hosts <= profile.max_hosts
    world = World(profile, (SPOT, STEADY), boot_s=5.0, tick_s=5.0)
    world.submit(*names(20), tokens_total=20_000)
    world.run(9000)
    assert all(j.state is JobState.SUCCEEDED for j in world.jobs.values())
    assert len(world.hosts) == profile.min_hosts


def test_profiles_do_what_they_are_named_for() -> None:
    """The same work: `speed` is done first, `cost` pays least."""
    ends, costs = {}, {}
    for name in ("speed", "balanced", "cost", "quality"):
        world = World(dataclasses.replace(PROFILES[name], min_hosts=0), (SPOT, STEADY), boot_s=30.0, tick_s=5.0)
        world.submit(*names(32), tokens_total=50_000)
        while not all(j.state.is_final for j in world.jobs.values()):
            world.tick()
        ends[name] = world.now_s
        world.run(1500)
        assert world.hosts == {}
        costs[name] = sum(world.host_types[k].price_per_hour * s for k, s in world.host_seconds.items())
        assert ("spot" in world.host_seconds) == (name in ("balanced", "cost"))
    assert min(ends, key=lambda n: ends[n]) == "speed"
    assert min(costs, key=lambda n: costs[n]) == "cost"
