"""What no policy may ask for, and the first-come policy under random clusters."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlora_ray.policies.contract import POLICIES, RENAMED, Policy, load_policy, validate_actions
from mlora_ray.policies.placement.fifo import Fifo
from mlora_ray.policies.placement.rebalance import Rebalance
from mlora_ray.types import (
    Action,
    AdapterView,
    ClusterView,
    DrainHost,
    HostView,
    JobState,
    LaunchHost,
    Migrate,
    Pause,
    Place,
    PolicyState,
    SetGroup,
)


def adapter(name: str, **values: object) -> AdapterView:
    plain = AdapterView(
        id=name,
        base="b1",
        epoch=1,
        state=JobState.QUEUED,
        lora_rank=8,
        step_tokens=10.0,
        tokens_done=0,
        tokens_total=100,
        submitted_at_s=0.0,
        state_bytes=10,
    )
    return dataclasses.replace(plain, **values)  # type: ignore[arg-type]


VIEW = ClusterView(
    now_s=0.0,
    hosts=(
        HostView(id="h1", base="b1", device_type="cpu", group=("on",), free_bytes=100),
        HostView(id="h2", base="b1", device_type="cpu", free_bytes=5),
        HostView(id="dead", base="b1", device_type="cpu", state="dead"),
        HostView(id="draining", base="b1", device_type="cpu", state="draining"),
        HostView(id="other", base="b2", device_type="cpu"),
    ),
    adapters=(
        adapter("off"),
        adapter("on", host="h1", state=JobState.TRAINING),
        adapter("ended", state=JobState.SUCCEEDED),
        adapter("wide", host="h2", state=JobState.TRAINING, width=2),
    ),
)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (Place(adapter="off", host="h1", epoch=1), ""),
        (Migrate(adapter="on", host="h2", epoch=1), "needs 10 bytes"),
        (Migrate(adapter="on", host="h1", epoch=1), "is on h1"),
        (Migrate(adapter="off", host="h1", epoch=1), "no host"),
        (Pause(adapter="on", epoch=1), ""),
        (Pause(adapter="off", epoch=1), "on no host"),
        (Place(adapter="on", host="h1", epoch=1), "already"),
        (Place(adapter="off", host="h1", epoch=2), "epoch 1, not 2"),
        (Place(adapter="off", host="dead", epoch=1), "is dead"),
        (Place(adapter="off", host="draining", epoch=1), "is draining"),
        (Place(adapter="off", host="other", epoch=1), "holds b2"),
        (Place(adapter="off", host="none", epoch=1), "no host none"),
        (Place(adapter="none", host="h1", epoch=1), "no adapter none"),
        (Place(adapter="ended", host="h1", epoch=1), "SUCCEEDED"),
        (Migrate(adapter="wide", host="h2", shards=("h1",), epoch=1), ""),  # h2 is full, but it is there already
        (Migrate(adapter="wide", host="h2", epoch=1), "is on h2"),
        (Migrate(adapter="wide", host="h1", shards=("h1",), epoch=1), "width 2, named are h1, h1"),
        (Place(adapter="off", host="h1", shards=("h2",), epoch=1), "width 1"),
        (SetGroup(host="h1", group=("on",)), ""),
        (SetGroup(host="h1", group=("on", "on")), "twice"),
        (SetGroup(host="h1", group=("off",)), "off not on h1"),
        (SetGroup(host="dead", group=()), "no living host"),
        (DrainHost(host="h1"), ""),
        (DrainHost(host="none"), "no host"),
        (LaunchHost(base="b1", device_type="cpu"), ""),
        (LaunchHost(base="", device_type="cpu"), "needs a base"),
    ],
)
def test_invariants(action: Action, why: str) -> None:
    allowed, refused = validate_actions(VIEW, [action])
    assert (allowed, [r.action for r in refused]) == (([], [action]) if why else ([action], []))
    assert not why or why in refused[0].why


def test_an_adapter_is_named_once_and_groups_see_what_came_before() -> None:
    place = Place(adapter="off", host="h1", epoch=1)
    both = SetGroup(host="h1", group=("on", "off"))
    allowed, refused = validate_actions(VIEW, [place, both, dataclasses.replace(place, host="h2")])
    assert allowed == [place, both]
    assert "earlier action" in refused[0].why


def test_policies_by_name() -> None:
    assert isinstance(load_policy("fifo"), Fifo)
    assert load_policy("mlora_ray.policies.placement.fifo:Fifo").name == "fifo"
    wrong = {"best": "allowed are .*", "json:loads": "be loaded", "no_such:X": "be loaded", "builtins:int": "decide"}
    for name, why in wrong.items():
        with pytest.raises(ValueError, match=why):
            load_policy(name)


names = st.sampled_from(["h1", "h2", "h3"])
host_views = st.lists(
    st.builds(
        HostView,
        id=names,
        base=st.sampled_from(["b1", "b2"]),
        device_type=st.just("cpu"),
        state=st.sampled_from(["alive", "draining", "dead"]),
        free_bytes=st.sampled_from([0, 5, 50]),
    ),
    unique_by=lambda h: h.id,
)
adapter_views = st.lists(
    st.builds(
        adapter,
        st.integers(0, 30).map(str),
        base=st.sampled_from(["b1", "b2"]),
        host=st.none() | names,
        epoch=st.integers(0, 3),
        state=st.sampled_from(JobState),
        submitted_at_s=st.integers(0, 3).map(float),
        state_bytes=st.sampled_from([1, 10]),
    ),
    unique_by=lambda a: a.id,
)


@given(host_views, adapter_views)
def test_fifo_keeps_every_invariant(hosts: list[HostView], adapters: list[AdapterView]) -> None:
    policy: Policy = Fifo()
    view = ClusterView(now_s=9.0, hosts=tuple(hosts), adapters=tuple(adapters))
    actions, state = policy.decide(view, PolicyState())
    assert policy.decide(view, state)[0] == actions
    assert validate_actions(view, actions) == (actions, [])
    placed = {a.adapter for a in actions if isinstance(a, Place)}
    for one in adapters:
        is_waiting = one.state is JobState.QUEUED and one.host is None
        fits = any(
            h.state == "alive" and h.base == one.base and (not h.free_bytes or h.free_bytes >= one.state_bytes)
            for h in hosts
        )
        assert (one.id in placed) == (is_waiting and fits)


@given(st.integers(1, 4), st.integers(0, 40))
def test_fifo_spreads_evenly_and_keeps_the_order(num_hosts: int, num_adapters: int) -> None:
    hosts = tuple(HostView(id=f"h{i}", base="b1", device_type="cpu") for i in range(num_hosts))
    adapters = tuple(adapter(str(i), submitted_at_s=float(-i)) for i in range(num_adapters))
    actions, _ = Fifo().decide(ClusterView(now_s=0.0, hosts=hosts, adapters=adapters), PolicyState())
    assert [a.adapter for a in actions if isinstance(a, Place)] == [str(i) for i in reversed(range(num_adapters))]
    loads = [sum(isinstance(a, Place) and a.host == h.id for a in actions) for h in hosts]
    assert max(loads) - min(loads) <= 1


def test_rebalance_names_an_adapter_once() -> None:
    names = tuple(f"a{i}" for i in range(6))
    full = HostView(id="full", base="b1", device_type="cpu", group=names)
    empty = tuple(HostView(id=f"empty{i}", base="b1", device_type="cpu") for i in range(2))
    training = tuple(adapter(name, host="full", state=JobState.TRAINING) for name in names)
    view = ClusterView(now_s=0.0, hosts=(full, *empty), adapters=training)
    actions, _ = Rebalance().decide(view, PolicyState())
    assert validate_actions(view, actions) == (actions, [])
    assert {a.host for a in actions if isinstance(a, Migrate)} == {"empty0", "empty1"}


@pytest.mark.parametrize(("before", "now"), RENAMED.items())
def test_a_name_of_an_earlier_release_still_works_and_says_the_new_one(before: str, now: str) -> None:
    with pytest.warns(FutureWarning, match=f"'{before}' is called '{now}' now"):
        assert load_policy(before).name == now
    assert before not in POLICIES
