"""Who trains where: decisions, what they are logged as, whose bits a host computes."""

from __future__ import annotations

from pathlib import Path

from mlora_ray.clock import VirtualClock
from mlora_ray.policies.placement.fifo import Fifo
from mlora_ray.store.decision_log import read_decisions
from mlora_ray.types import Action, ClusterView, HostType, JobState, Pause, PolicyState
from tests.conftest import make_spec
from tests.fakes.scripted import Scripted
from tests.fakes.service import Service, specs


def test_decisions_replay_to_identical_actions(service: Service) -> None:
    service.submit(specs(5))
    service.run()
    decisions = read_decisions(service.settings.decisions_uri)
    assert sum(len(d.actions) for d in decisions) == 5
    assert {d.policy for d in decisions} == {"rebalance"}
    assert all(Fifo().decide(d.view, d.state)[0] == d.actions for d in decisions)


def test_a_long_log_says_changes_only_and_replays_the_same(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock, num_hosts=3, policy="rebalance")
    seen = []
    decide = service.placement._policy.decide

    def spy(view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        actions, after = decide(view, state)
        if actions:
            seen.append((view, state, actions))
        return actions, after

    service.placement._policy.decide = spy  # type: ignore[method-assign]
    service.submit(specs(12, steps=25))
    for name in ("h-0", "h-1"):
        service.tick(6)
        service.control.drain(name)
    service.submit([make_spec("late")])
    service.run()
    lines = Path(service.settings.decisions_uri).read_text().splitlines()
    assert sum('"change"' in line for line in lines) > len(lines) / 2
    assert [(d.view, d.state, d.actions) for d in read_decisions(service.settings.decisions_uri)] == seen


def test_a_policys_pause_puts_a_job_back_into_the_queue(scripted: Service) -> None:
    scripted.submit(specs(2))
    scripted.tick(5)
    Scripted.next = lambda view: [Pause(adapter="job-1", epoch=view.adapters[1].epoch)]
    scripted.tick()
    Scripted.next = lambda view: []
    scripted.tick()
    assert scripted.states()["job-1"] is JobState.QUEUED
    scripted.run()
    scripted.check_integrity()


def test_a_begun_job_waits_for_a_host_that_computes_its_bits(tmp_path: Path, clock: VirtualClock) -> None:
    types = (HostType(name="a"), HostType(name="b"))
    service = Service(tmp_path, clock, policy="rebalance", host_types=types)
    service.transport.prepare = lambda host: setattr(host, "numerics", host.settings.host_type)
    service.submit(specs(4, steps=40))
    service.tick(4)
    began = {r.spec.name: r.numerics for r in service.database.jobs()}
    assert set(began.values()) == {"a", "b"}
    first = service.launched[0]
    first.is_dead = True
    service.transport.prepare = lambda host: setattr(host, "is_loading", True)
    service.tick(10)
    stuck = {n for n, numerics in began.items() if numerics == first.settings.host_type}
    assert {n for n, state in service.states().items() if state is JobState.QUEUED} == stuck
    service.launched[-1].is_loading = False
    service.launched[-1].numerics = first.settings.host_type
    service.run()
    assert {r.spec.name: r.numerics for r in service.database.jobs()} == began
    service.check_integrity()
