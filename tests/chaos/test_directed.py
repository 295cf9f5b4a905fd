"""Faults at a chosen moment, where a random one would prove too little: again the bits of the undisturbed run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from mlora_ray.types import JobState
from mlora_ray.types.records import Event, HostRecord
from tests.chaos.drill import Drill, run_to_the_end
from tests.chaos.machines import Machines, NotInstalled, kill, wait_for
from tests.chaos.suite import Suite, new_suite

NUM_STEPS = 1500  # of each job: long enough for one disturbance after the other on an idle machine

# Minutes each: `make chaos` runs them, `make test` does not.
pytestmark = [pytest.mark.directed, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    try:
        with new_suite(NUM_STEPS) as made:
            yield made
    except NotInstalled as missing:
        pytest.skip(str(missing))


TICK_S = 1.5  # long, so that two of them are more than a busy machine takes for one
FENCE_S = 6.0
NOTICE_S = 10.0


def all_train(drill: Drill) -> list[HostRecord]:
    """The three hosts, once every job trains and each of them has some."""

    def is_so() -> bool:
        records = drill.ask(lambda db: db.jobs(), [])
        loads = [sum(r.host == h.settings.id for r in records) for h in drill.alive_hosts()]
        return len(loads) == 3 and min(loads) >= 2 and all(r.step > 0 for r in records)

    wait_for(is_so, "three hosts at work", 120.0)
    return drill.alive_hosts()


def events_of(drill: Drill, kind: str, host: str = "") -> list[Event]:
    events: list[Event] = drill.ask(lambda db: db.events(), [])
    return [e for e in events if e.kind == kind and host in ("", e.host)]


def lost(drill: Drill, host: HostRecord) -> Event:
    found: Event = wait_for(lambda: (events_of(drill, "host_lost", host.settings.id) or [None])[0], "its fence")
    return found


def longest_pauses(drill: Drill, hosts: list[str], from_s: float, to_s: float) -> dict[str, float]:
    """Of each host: the longest time between two rounds of commits."""
    commits = events_of(drill, "saved")
    times = {h: [from_s, *(e.at_s for e in commits if e.host == h and from_s < e.at_s < to_s), to_s] for h in hosts}
    return {h: max(after - before for before, after in pairwise(t)) for h, t in times.items()}


def commits_after(drill: Drill, end: Event) -> list[Event]:
    commits = [*events_of(drill, "saved", end.host), *events_of(drill, "succeeded", end.host)]
    return [e for e in commits if e.id > end.id]


def test_a_hung_host_is_replaced_and_a_cut_off_one_that_returns_commits_nothing(suite: Suite) -> None:
    def disturb(drill: Drill) -> None:
        hung, *others = all_train(drill)
        began_s = time.time()
        os.kill(hung.pid, signal.SIGSTOP)
        fence = lost(drill, hung)
        pauses = longest_pauses(drill, [h.settings.id for h in others], began_s, fence.at_s)
        assert max(pauses.values()) <= 2 * TICK_S, pauses
        os.kill(hung.pid, signal.SIGCONT)
        wait_for(lambda: len(drill.alive_hosts()) == 3, "a host in its place")
        ends.append(fence)
        ends.append(cut_off(drill))

    ends: list[Event] = []
    drill = suite.drill("hung", tick_s=TICK_S, host_timeout_s=FENCE_S)
    assert run_to_the_end(drill, disturb, lambda d: [assert_nothing_after(d, e) for e in ends]) == suite.quiet


def cut_off(drill: Drill) -> Event:
    """Stop a node's raylet: Ray calls the node dead, its host trains on and saves, and nobody listens."""
    machines = drill.machines
    host = next(h for h in drill.alive_hosts() if any(r.host == h.settings.id for r in drill.database.jobs()))
    slot = machines.slot_of(host.node_id)
    assert slot is not None
    epochs = {r.spec.name: r.epoch for r in drill.database.jobs() if r.host == host.settings.id}
    machines.signal_raylet(slot, signal.SIGSTOP)
    fence = lost(drill, host)
    own = [drill.bundles / job / f"*-epoch-{epoch}.safetensors" for job, epoch in epochs.items()]
    wait_for(lambda: any(_is_younger(path, fence.at_s) for path in own), "a bundle that a fenced host saved")
    machines.signal_raylet(slot, signal.SIGCONT)
    machines.wait_for_raylet_to_end(slot)
    machines.add_node(slot)
    return fence


def _is_younger(pattern: Path, than_s: float) -> bool:
    return any(path.stat().st_mtime > than_s for path in pattern.parent.glob(pattern.name))


def assert_nothing_after(drill: Drill, end: Event) -> None:
    assert commits_after(drill, end) == []


def test_a_notice_is_used_and_one_that_is_too_short_costs_only_steps_since_the_bundle(suite: Suite) -> None:
    def disturb(drill: Drill) -> None:
        machines, (first, second, _) = drill.machines, all_train(drill)
        slot = machines.slot_of(first.node_id)
        assert slot is not None
        machines.drain_node(slot, NOTICE_S)
        deadline_s = time.time() + NOTICE_S
        left = wait_for(lambda: events_of(drill, "host_left", first.settings.id), "an empty node", NOTICE_S)
        assert left[0].at_s < deadline_s
        assert events_of(drill, "requeued") == []
        wait_for(lambda: first.pid not in [p.pid for p in machines.actors("HostActor")], "its process's end")
        machines.kill_node(slot)
        machines.add_node(slot)
        slot = machines.slot_of(second.node_id)
        assert slot is not None
        machines.drain_node(slot, 0.05)
        machines.kill_node(slot)
        machines.add_node(slot)

    assert run_to_the_end(suite.drill("notice"), disturb) == suite.quiet


def test_moves_that_are_cut_in_the_middle_go_on_from_the_last_bundle(suite: Suite) -> None:
    """The targets stand still, so that states are between two hosts when the placement actor, then both hosts, die."""

    def disturb(drill: Drill) -> None:
        source, *targets = all_train(drill)
        hold_moves(drill, source, targets)
        for process in drill.machines.actors("PlacementActor"):
            kill(process)
        for target in targets:
            os.kill(target.pid, signal.SIGCONT)
        source, *targets = wait_for(lambda: by_load(drill), "two hosts at work", 120.0)
        hold_moves(drill, source, targets)
        for host in (source, *targets):
            os.kill(host.pid, signal.SIGKILL)

    drill = suite.drill("moves", host_timeout_s=30.0)
    assert run_to_the_end(drill, disturb) == suite.quiet


def by_load(drill: Drill) -> list[HostRecord]:
    """Hosts that placement hears and that do not drain, the fullest first; empty while there are fewer than two."""
    heard = {h.id for h in drill.call("hosts") if h.state == "alive"}
    jobs = [r.host for r in drill.ask(lambda db: db.jobs(), []) if r.state is JobState.TRAINING]
    hosts = [h for h in drill.alive_hosts() if h.settings.id in heard]
    hosts.sort(key=lambda h: -jobs.count(h.settings.id))
    return hosts if len(hosts) > 1 and jobs.count(hosts[0].settings.id) else []


def hold_moves(drill: Drill, source: HostRecord, targets: list[HostRecord]) -> None:
    """Return while adapters of `source` are under way to targets that do not answer."""
    before = len(events_of(drill, "moving"))
    for target in targets:
        os.kill(target.pid, signal.SIGSTOP)
    drill.call("drain", source.settings.id)
    wait_for(lambda: len(events_of(drill, "moving")) > before, "moves")
    time.sleep(0.5)  # states have left, and nobody takes them in


def test_a_host_that_is_recycled_changes_no_bit(suite: Suite) -> None:
    drill = suite.drill("recycled", host_max_steps=700)

    def look(drill: Drill) -> None:
        recycled = [h for h in drill.database.hosts(is_gone_included=True) if "drained" in h.why]
        assert len(recycled) >= 2, [h.why for h in drill.database.hosts(is_gone_included=True)]
        assert events_of(drill, "requeued") == []
        assert any("recycled after" in e.detail for e in events_of(drill, "host_drains"))

    assert run_to_the_end(drill, None, look) == suite.quiet


def test_the_harness_counts_what_it_started(suite: Suite) -> None:
    machines: Machines = suite.machines
    assert sorted(machines.nodes) == [0, 1, 2]
    assert machines.actors("HostActor") == machines.actors("PlacementActor") == []
