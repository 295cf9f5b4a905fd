"""Placement and hosts on a virtual clock, over hosts that train in no time: nothing lost, nothing twice."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.decisions import read_decisions
from mlora_ray.errors import MloraError
from mlora_ray.hosts import Hosts
from mlora_ray.placement import Placement
from mlora_ray.policies.fifo import Fifo
from mlora_ray.store.database import ControlDatabase
from mlora_ray.types import (
    Action,
    ClusterView,
    HostSettings,
    JobSpec,
    JobState,
    Migrate,
    Pause,
    Place,
    PolicyState,
)
from tests.conftest import FakeHost, make_spec, make_step

Launch = tuple[Callable[[HostSettings], FakeHost], list[FakeHost]]


class Cluster:
    """A placement with its hosts, ticked by hand."""

    def __init__(self, folder: Path, clock: VirtualClock, launch: Launch, hosts: tuple[HostSettings, ...]) -> None:
        self.folder, self.clock = folder, clock
        self.launched = launch[1]
        self.database = ControlDatabase(f"sqlite:///{folder}/control.db")
        self.placement = self.new_placement(Fifo())
        self.hosts = Hosts(launch[0], hosts)

    def new_placement(self, policy: object) -> Placement:
        return Placement(
            self.database,
            policy,  # type: ignore[arg-type]
            out_root=str(self.folder / "out"),
            bundle_root=str(self.folder / "bundles"),
            log_uri=str(self.folder / "decisions.jsonl"),
            clock=self.clock,
        )

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(1.0)
            self.hosts.admit_ready(self.placement)
            self.hosts.tick(self.placement)

    def run(self, max_ticks: int = 200) -> None:
        for _ in range(max_ticks):
            if self.placement.is_done:
                return
            self.tick()
        raise AssertionError(f"not done after {max_ticks} ticks: {self.placement.status()}")

    def states(self) -> dict[str, JobState]:
        return {r.spec.name: r.state for r in self.database.jobs()}

    def check_integrity(self) -> None:
        """Committed steps of each job are 1..n without a gap, and metrics.jsonl says the same."""
        for record in self.database.jobs():
            name = record.spec.name
            steps = [s for s, _ in self.database.steps(name)]
            assert steps == [make_step(name, i) for i in range(1, record.step + 1)]
            path = self.folder / "out" / name / "metrics.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            assert [json.loads(line)["step"] for line in lines] == [s.step for s in steps]
            files = list((self.folder / "bundles" / name).glob("*"))
            assert record.bundle_uri == "" or record.bundle_uri in map(str, files)


MakeSettings = Callable[[str], HostSettings]


@pytest.fixture
def cluster(tmp_path: Path, clock: VirtualClock, fake_launch: Launch, host_settings: MakeSettings) -> Cluster:
    return Cluster(tmp_path, clock, fake_launch, (host_settings("h-0"), host_settings("h-1")))


def specs(count: int, **values: int) -> list[JobSpec]:
    return [make_spec(f"job-{i}", **values) for i in range(count)]


def test_all_succeed_and_only_two_bundles_are_kept(cluster: Cluster) -> None:
    cluster.placement.submit(specs(5))
    cluster.run()
    cluster.tick()
    assert set(cluster.states().values()) == {JobState.SUCCEEDED}
    cluster.check_integrity()
    for record in cluster.database.jobs():
        kept = sorted(p.name for p in (cluster.folder / "bundles" / record.spec.name).iterdir())
        assert kept == ["step-00000009-epoch-1.safetensors", "step-00000010-epoch-1.safetensors"]
    status = cluster.placement.status()
    assert status.share_done == 1.0
    assert status.done_tokens == status.total_tokens == 5 * 80


def test_decisions_replay_to_identical_actions(cluster: Cluster) -> None:
    cluster.placement.submit(specs(5))
    cluster.run()
    decisions = read_decisions(str(cluster.folder / "decisions.jsonl"))
    assert sum(len(actions) for _, _, actions in decisions) == 5
    assert all(Fifo().decide(view, state)[0] == actions for view, state, actions in decisions)


def test_one_failure_is_its_own(cluster: Cluster) -> None:
    cluster.placement.submit(specs(4))
    cluster.tick()
    for host in cluster.launched:
        host.fail_after["job-2"] = 4
    cluster.run()
    assert cluster.states().pop("job-2") is JobState.FAILED
    assert list(cluster.states().values()).count(JobState.SUCCEEDED) == 3
    assert cluster.placement.status().jobs[2].error == "loss is nan"
    cluster.check_integrity()


def test_a_dead_hosts_jobs_go_on_elsewhere_from_their_last_bundle(cluster: Cluster) -> None:
    cluster.placement.submit(specs(4))
    cluster.tick(6)
    cluster.launched[0].is_dead = True
    cluster.run()
    assert cluster.launched[0].stopped
    assert {h.settings.id for h in cluster.launched} == {"h-0", "h-1", "h-0.1"}
    assert set(cluster.states().values()) == {JobState.SUCCEEDED}
    cluster.check_integrity()
    assert {r.epoch for r in cluster.database.jobs()} == {1, 3}  # placed; or placed, lost, placed


def test_a_host_that_was_cut_off_commits_nothing(cluster: Cluster) -> None:
    cluster.placement.submit(specs(2))
    cluster.tick(2)
    lost = cluster.launched[0]
    lost.drops_answers = True
    cluster.tick(4)
    lost.drops_answers = False
    late = lost.answer()
    assert late.bundles
    before = [(r.step, r.epoch) for r in cluster.database.jobs()]
    cluster.placement.absorb("h-0", late)
    assert [(r.step, r.epoch) for r in cluster.database.jobs()] == before
    cluster.run()
    cluster.check_integrity()


def test_hosts_that_only_die_end_the_run(cluster: Cluster) -> None:
    cluster.placement.submit(specs(1))
    for host in cluster.launched:
        host.is_dead = True
    cluster.tick()  # two are lost and replaced
    cluster.launched[-1].is_dead = True
    with pytest.raises(MloraError, match="3 hosts were lost with nothing trained"):
        cluster.tick()


def test_a_loading_host_gets_nothing_until_it_is_ready(cluster: Cluster) -> None:
    cluster.placement.submit(specs(2))
    cluster.launched[0].is_loading = True
    cluster.tick(3)
    assert {r.host for r in cluster.database.jobs()} == {"h-1"}


@pytest.mark.parametrize("seed", range(4))
def test_random_deaths_and_stops_lose_nothing(cluster: Cluster, seed: int) -> None:
    """Hosts die, answers are lost, the placement itself is replaced: the steps are those of a quiet run."""
    chance = random.Random(seed)
    cluster.placement.submit(specs(6, steps=20, save_steps=2))
    for _ in range(60):
        if cluster.placement.is_done:
            break
        living = [h for h in cluster.launched if not h.is_dead and not h.stopped]
        roll = chance.random()
        if roll < 0.1:
            chance.choice(living).is_dead = True
        elif roll < 0.2:
            chance.choice(living).drops_answers = True
        elif roll < 0.3:
            for host in living:
                host.is_dead = True
            cluster.placement = cluster.new_placement(Fifo())
            cluster.placement.resume(specs(6, steps=20, save_steps=2))
        cluster.hosts._losses = 0
        cluster.tick()
    cluster.run()
    assert set(cluster.states().values()) == {JobState.SUCCEEDED}
    cluster.check_integrity()


def test_stop_saves_all_and_resume_goes_on(cluster: Cluster) -> None:
    jobs = specs(3)
    cluster.placement.submit(jobs)
    cluster.tick(5)
    cluster.hosts.save_all(cluster.placement)
    cluster.placement.pause_all()
    assert set(cluster.states().values()) == {JobState.PAUSED}
    assert {r.step for r in cluster.database.jobs()} == {6}
    stray = cluster.folder / "bundles" / "job-0" / ".half-written.tmp"
    stray.write_text("x")
    (cluster.folder / "out" / "job-1" / "metrics.jsonl").write_text("torn {")
    for host in cluster.launched:
        host.is_dead = True
    cluster.placement = cluster.new_placement(Fifo())
    cluster.placement.resume(jobs)
    assert not stray.exists()
    cluster.run()
    assert set(cluster.states().values()) == {JobState.SUCCEEDED}
    cluster.check_integrity()


def test_a_damaged_bundle_costs_steps_not_the_job(cluster: Cluster) -> None:
    jobs = specs(2)
    cluster.placement.submit(jobs)
    cluster.tick(8)
    newest = Path(cluster.database.jobs()[0].bundle_uri)
    assert cluster.database.jobs()[0].step == 6
    newest.write_bytes(newest.read_bytes()[:-3])
    for host in cluster.launched:
        host.is_dead = True
    cluster.placement = cluster.new_placement(Fifo())
    cluster.placement.resume(jobs)
    assert [r.step for r in cluster.database.jobs()] == [3, 6]
    cluster.run()
    cluster.check_integrity()


class Scripted:
    """Fifo, but for the actions that a test puts in."""

    name = "scripted"

    def __init__(self) -> None:
        self.next: Callable[[ClusterView], list[Action]] | None = None

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        if self.next is None:
            return Fifo().decide(view, state)
        asked, self.next = self.next, None
        return asked(view), state


def test_migrate_and_pause_keep_the_newest_step(cluster: Cluster) -> None:
    policy = Scripted()
    cluster.placement = cluster.new_placement(policy)
    cluster.placement.submit(specs(2))
    cluster.tick(4)
    home = {r.spec.name: r.host for r in cluster.database.jobs()}
    away = "h-1" if home["job-0"] == "h-0" else "h-0"
    policy.next = lambda view: [
        Migrate(adapter="job-0", host=away, epoch=view.adapters[0].epoch),
        Pause(adapter="job-1", epoch=view.adapters[1].epoch),
    ]
    cluster.tick(2)
    moved, paused = cluster.database.jobs()
    assert (moved.host, moved.step) == (away, 4)
    assert (paused.state, paused.step, paused.host) == (JobState.PAUSED, 4, "")
    for _ in range(12):
        cluster.tick()
    assert cluster.states() == {"job-0": JobState.SUCCEEDED, "job-1": JobState.PAUSED}
    cluster.check_integrity()


def test_a_policy_that_raises_or_cheats_is_overruled(cluster: Cluster) -> None:
    policy = Scripted()
    cluster.placement = cluster.new_placement(policy)
    cluster.placement.submit(specs(1))
    cluster.tick()

    def cheat(view: ClusterView) -> list[Action]:
        return [Place(adapter="job-0", host="h-0", epoch=view.adapters[0].epoch)]

    policy.next = cheat
    cluster.tick()
    assert any("already" in e.detail for e in cluster.database.events() if e.kind == "refused")
    policy.next = lambda view: [1 / 0]  # type: ignore[list-item]
    cluster.run()
    assert cluster.states() == {"job-0": JobState.SUCCEEDED}


def test_views_are_plain_and_complete(cluster: Cluster) -> None:
    job = dataclasses.replace(make_spec("job-0"), tenant="t", priority=2)
    cluster.placement.submit([job])
    cluster.tick(4)
    view = cluster.placement.view()
    assert view.now_s == cluster.clock.now_s()
    one = view.adapters[0]
    assert (one.id, one.tenant, one.priority, one.tokens_total, one.tokens_done) == ("job-0", "t", 2, 80, 24)
    assert {h.id: h.group for h in view.hosts} == {"h-0": ("job-0",), "h-1": ()}


def test_policies_see_how_large_a_state_is_and_no_bound_of_a_host(cluster: Cluster) -> None:
    cluster.placement.submit(specs(2), {"job-0": 5 << 20, "job-1": 7})
    cluster.tick()
    view = cluster.placement.view()
    assert [a.state_bytes for a in view.adapters] == [5 << 20, 7]
    assert [(a.host, h.free_bytes) for a, h in zip(view.adapters, view.hosts, strict=True)] == [("h-0", 0), ("h-1", 0)]


def test_the_throughput_curve_ends_with_training(cluster: Cluster) -> None:
    cluster.placement.submit(specs(1))
    cluster.run()
    cluster.placement.sample()
    ended = cluster.placement.samples()
    cluster.tick(3)
    cluster.placement.sample()
    assert cluster.placement.samples() == ended
    assert len(ended) == 1
