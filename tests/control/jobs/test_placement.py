"""A service on a virtual clock, over hosts that train in no time: nothing lost, nothing twice, whoever dies."""

from __future__ import annotations

import dataclasses
import math
import random
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from mlora_ray.clock import VirtualClock
from mlora_ray.control.jobs.step_time_learner import StepLearner
from mlora_ray.errors import DatabaseError, InputError
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import StepTimeModel, StepTimes
from mlora_ray.policies.models.step_time_fit import added, row_stats
from mlora_ray.policies.placement.fifo import Fifo
from mlora_ray.store.bundles import read_bundle
from mlora_ray.store.decision_log import read_decisions
from mlora_ray.types import Action, ClusterView, HostType, JobState, Migrate, Pause, Place, PolicyState
from tests.conftest import BASE, make_spec, make_step
from tests.fakes import FakeHost, Scripted, Service, specs


@pytest.fixture
def service(tmp_path: Path, clock: VirtualClock) -> Service:
    return Service(tmp_path, clock)


@pytest.fixture
def scripted(tmp_path: Path, clock: VirtualClock) -> Service:
    Scripted.next = None
    return Service(tmp_path, clock, policy="tests.fakes:Scripted")


def other_host(service: Service, job: str) -> str:
    return next(h.settings.id for h in service.transport.living if h.settings.id != service.job(job).record.host)


def move(service: Service, job: str) -> tuple[str, str]:
    """Have the policy move it; answers from where to where."""
    source, target = service.job(job).record.host, other_host(service, job)
    epoch = service.job(job).record.epoch
    Scripted.next = lambda view: [Migrate(adapter=job, host=target, epoch=epoch)]
    return source, target


# -- a quiet life


def test_all_succeed_and_only_two_bundles_are_kept(service: Service) -> None:
    service.submit(specs(5))
    service.run()
    service.tick()
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()
    for record in service.database.jobs():
        kept = sorted(p.name for p in (Path(service.settings.bundle_root) / record.spec.name).iterdir())
        assert kept == ["step-00000009-epoch-1.safetensors", "step-00000010-epoch-1.safetensors"]
    status = service.control.status()
    assert (status.phase, status.share_done) == ("done", 1.0)
    assert status.done_tokens == status.total_tokens == 5 * 80


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


def test_one_failure_is_its_own(service: Service) -> None:
    service.submit(specs(4))
    service.tick(3)
    for host in service.launched:
        host.fail_after["job-2"] = 4
    service.run()
    assert service.states().pop("job-2") is JobState.FAILED
    assert list(service.states().values()).count(JobState.SUCCEEDED) == 3
    assert service.control.status(("job-2",)).jobs[0].error == "loss is nan"
    service.check_integrity()


def test_a_loading_host_gets_nothing_until_it_is_ready(service: Service) -> None:
    service.transport.prepare = lambda host: setattr(host, "is_loading", host.settings.id == "h-0")
    service.submit(specs(2))
    service.tick(4)
    assert {r.host for r in service.database.jobs()} == {"h-1"}
    assert [h.state for h in service.control.hosts()] == ["starting", "alive"]


def test_a_job_that_waits_says_why(service: Service) -> None:
    """A host without a node, one that loads, one that died before it."""

    def hold_up(host: FakeHost) -> None:
        host.is_loading = host.is_homeless = True

    service.transport.prepare = hold_up
    service.submit(specs(1))
    service.tick()
    assert service.control.status().jobs[0].note == "host h-0 waits for a node with 1 CPU free"
    for host in service.launched:
        host.is_homeless = False
    assert service.control.status().jobs[0].note == "host h-0 loads its base"
    for host in service.launched:
        host.is_dead = True
    service.tick(2)
    waiting = next(h for h in service.control.hosts() if h.state == "starting")
    assert waiting.detail == (
        "waits for a node with 1 CPU free; the one before it: its process died: killed by the test"
    )
    for host in service.transport.living:
        host.is_loading = False
    service.run()
    assert service.control.status().jobs[0].note == ""


def test_losses_are_known_after_a_restart(service: Service) -> None:
    service.submit(specs(2))
    service.run()
    before = [j.loss for j in service.control.status().jobs]
    service.restart()
    assert [j.loss for j in service.control.status().jobs] == [make_step("x", 10).loss] * 2
    assert not any(math.isnan(loss) for loss in before)


def test_the_throughput_curve_ends_with_training(service: Service) -> None:
    service.submit(specs(1))
    service.run()
    service.tick()
    ended = service.control.result().samples
    service.tick(3)
    assert service.control.result().samples == ended
    assert ended[-1][1] == 0.0


def test_views_are_plain_and_complete(service: Service) -> None:
    service.submit([dataclasses.replace(make_spec("job-0"), tenant="t", priority=2)], [("job-0", 5 << 20)])
    service.tick(5)
    view = service.placement.view()
    assert view.now_s == service.clock.now_s()
    one = view.adapters[0]
    assert (one.id, one.tenant, one.priority, one.tokens_total, one.state_bytes) == ("job-0", "t", 2, 80, 5 << 20)
    assert one.tokens_done == 24
    assert one.numerics == view.hosts[0].numerics == "n"
    assert {h.id: h.group for h in view.hosts} == {"h-0": ("job-0",), "h-1": ()}


def run_rows(host: FakeHost, num_rows: int, factor: float = 1.0) -> None:
    """Rows of 700 to 1,300 tokens: 50 ms and 1 ms a token, 10 ms an adapter."""
    for at in range(num_rows):
        tokens, steps = 700 + 100 * (at % 7), 1 + at % 4
        seconds = factor * (0.05 + 1e-3 * tokens + 0.01 * steps)
        host.rows = added(host.rows, row_stats(tokens, steps, 8 * tokens, seconds))


def test_step_times_are_learned_from_what_hosts_report_and_a_slow_host_shows(service: Service) -> None:
    service.submit(specs(2, steps=200))
    service.tick(2)
    assert service.placement.view().step_times == ()
    for _ in range(8):
        for host in service.launched:
            run_rows(host, 10)
        service.tick()
    (learned,) = service.placement.view().step_times
    assert (learned.base, learned.device_type, learned.token_budget) == (BASE.id, "cpu", 1536)
    assert learned.start_s + 1000 * learned.token_s + 2 * learned.adapter_s == pytest.approx(1.07, rel=0.02)
    assert [h.step_time_drift for h in service.control.hosts()] == pytest.approx([1.0, 1.0], abs=0.02)
    run_rows(service.launched[1], 200, factor=1.5)
    service.tick()
    assert [h.step_time_drift for h in service.control.hosts()] == pytest.approx([1.0, 1.4], abs=0.1)
    service.restart()
    service.tick(2)
    (again,) = service.placement.view().step_times
    assert again.num_rows == 360, "hosts tell their sums since they started"


def test_decisions_of_a_policy_that_knows_step_times_replay(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock, policy="rate-remaining")
    service.submit(specs(6, steps=12))
    service.tick(2)
    while not service.placement.is_done():
        for host in service.launched:
            run_rows(host, 20)
        service.tick()
        if len(service.states()) < 12:
            service.submit(specs(12, steps=12)[len(service.states()) :][:1])
    decisions = read_decisions(service.settings.decisions_uri)
    assert any(d.view.step_times for d in decisions)
    assert sum(len(d.actions) for d in decisions) >= 12
    for one in decisions:
        assert load_policy("rate-remaining").decide(one.view, one.state)[0] == one.actions


def test_profiles_are_what_hosts_are_compared_with(service: Service) -> None:
    profile = StepTimeModel(
        id="half", base=BASE.id, device_type="cpu", layer_points=((100.0, 0.05), (1000.0, 0.5)), token_budget=4096
    )
    service.submit(specs(1))
    service.tick(2)
    learner, host = StepLearner(StepTimes([profile])), service.placement.hosts["h-0"]
    run_rows(service.launched[0], 40)
    learner.take(host, dataclasses.replace(host.report, rows=service.launched[0].rows))
    assert host.timing.drift == pytest.approx(2.1, abs=0.1)
    assert learner.known()[0].drift == host.timing.drift


def test_a_change_of_the_size_of_rows_is_an_event_and_shows(service: Service) -> None:
    service.submit(specs(2, steps=20))
    service.tick(3)
    assert "row_size" not in service.kinds()
    service.launched[0].row_tokens, service.launched[0].row_why = 768, "in rows of 1,536 a token takes 9% more"
    service.tick(2)
    events = [e for e in service.database.events() if e.kind == "row_size"]
    assert [(e.host, e.detail) for e in events] == [("h-0", "768 tokens: in rows of 1,536 a token takes 9% more")]
    shown = {h.id: (h.row_tokens, h.row_why) for h in service.control.hosts()}
    assert shown == {"h-0": (768, "in rows of 1,536 a token takes 9% more"), "h-1": (1536, "what memory allows")}


def test_a_policy_that_raises_or_cheats_is_overruled(scripted: Service) -> None:
    scripted.submit(specs(1))
    scripted.tick(3)
    home = scripted.job("job-0").record.host
    Scripted.next = lambda view: [Place(adapter="job-0", host=home, epoch=view.adapters[0].epoch)]
    scripted.tick()
    assert any("already" in e.detail for e in scripted.database.events() if e.kind == "refused")
    for answer in (lambda view: [1 / 0], lambda view: [None], lambda view: 3):
        Scripted.next = answer  # type: ignore[assignment]
        scripted.tick()
    scripted.submit([make_spec("late")])
    Scripted.next = lambda view: [Place(adapter="nobody", host=home, epoch=0)]
    scripted.tick()
    assert scripted.job("late").record.host, "first come, first placed, where the policy misbehaves"
    scripted.run()
    assert set(scripted.states().values()) == {JobState.SUCCEEDED}


# -- deaths


def test_a_dead_hosts_jobs_go_on_elsewhere_from_their_last_bundle(service: Service) -> None:
    service.submit(specs(4))
    service.tick(6)
    service.launched[0].is_dead = True
    service.run()
    assert service.launched[0].stopped
    assert {h.settings.id for h in service.launched} == {"h-0", "h-1", "h-2"}
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()
    assert "gap" not in service.kinds()  # a bundle reported while its adapter leaves goes with the state


def test_a_silent_host_is_fenced_and_what_it_says_later_counts_for_nothing(service: Service) -> None:
    service.submit(specs(2, steps=60))
    service.tick(4)
    lost = service.launched[0]
    lost.is_hung = True
    service.tick(9)
    assert lost.settings.id in service.placement.hosts
    steps = service.job("job-1").record.step
    service.tick(4)
    assert lost.stopped
    assert service.job("job-1").record.step > steps  # the others went on meanwhile
    lost.is_hung = False
    late = lost.answer()
    assert late is not None
    assert late.bundles
    before = [(r.step, r.epoch) for r in service.database.jobs()]
    service.placement.absorb([("h-0", late)])
    assert [(r.step, r.epoch) for r in service.database.jobs()] == before
    service.run()
    service.check_integrity()


def test_a_host_that_answers_and_does_not_train_is_fenced(service: Service) -> None:
    service.submit(specs(2, steps=20))
    service.tick(4)
    stuck = service.launched[0]
    stuck.stalled_s = service.settings.stall_timeout_s
    service.tick(2)
    assert not stuck.stopped
    stuck.stalled_s += 1.0
    service.run()
    assert stuck.stopped
    assert "no step ended for 1801 s" in next(e.detail for e in service.database.events() if e.kind == "host_lost")
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()


def test_a_placement_that_is_restarted_takes_its_hosts_over(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    service.restart()
    service.tick(3)
    assert len(service.launched) == 2
    assert {r.epoch for r in service.database.jobs()} == {1}
    service.run()
    service.check_integrity()
    assert "host_lost" not in service.kinds()


def test_a_host_that_died_while_there_was_no_placement_is_replaced(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    service.launched[0].is_dead = True
    service.restart()
    service.run()
    assert [h.state for h in service.control.hosts(is_gone_included=True)].count("gone") == 1
    service.check_integrity()


def test_hosts_that_only_die_end_a_run_and_make_a_service_wait(tmp_path: Path, clock: VirtualClock) -> None:
    for ends in (True, False):
        service = Service(tmp_path / str(ends), clock, num_hosts=1, ends_on_trouble=ends)
        service.transport.prepare = lambda host: setattr(host, "is_dead", True)
        service.submit(specs(1))
        service.tick(6)
        status = service.control.status()
        assert len(service.launched) == 3
        assert ("3 hosts were lost with nothing trained" in status.error) is ends
        assert (status.phase == "done") is ends
        assert any("no host of" in w for w in status.warnings)
    service.transport.prepare = lambda host: None
    service.run()
    assert service.states() == {"job-0": JobState.SUCCEEDED}


def test_a_base_that_differs_between_nodes_is_refused(service: Service) -> None:
    service.transport.prepare = lambda host: setattr(
        host, "base_sha256", "c" * 64 if host.settings.id == "h-1" else "b"
    )
    service.submit(specs(3))
    service.tick(4)
    refused = [e for e in service.database.events() if e.kind == "host_refused"]
    assert refused[0].host == "h-1"
    assert "c" * 64 in refused[0].detail
    service.run()
    assert {h.id for h in service.control.hosts()} == {"h-0"}


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


def test_a_damaged_bundle_costs_steps_not_the_job(service: Service) -> None:
    service.submit(specs(2))
    service.tick(8)
    first = service.database.jobs()[0]
    assert first.step == 6
    Path(first.bundle_uri).write_bytes(Path(first.bundle_uri).read_bytes()[:-3])
    for host in service.launched:
        host.is_dead = True
    service.run()
    rolled = [e.detail for e in service.database.events() if e.kind == "rolled_back"]
    assert rolled
    assert rolled[0].startswith("step=3 ")
    service.check_integrity()


def test_storage_that_is_away_rolls_nobody_back(service: Service) -> None:
    service.submit(specs(2, steps=30))
    service.tick(8)
    steps = {r.spec.name: r.step for r in service.database.jobs()}
    there = [p for p in Path(service.settings.ours).rglob("*") if p.is_file() and p.name != "decisions.jsonl"]
    for path in there:
        path.rename(path.with_name(f"{path.name}.away"))
    for host in service.launched:
        host.is_dead = True
    service.tick(5)
    for path in there:
        path.with_name(f"{path.name}.away").rename(path)
    assert all(r.step >= steps[r.spec.name] > 0 for r in service.database.jobs())
    service.run()
    assert "rolled_back" not in service.kinds()
    service.check_integrity()


@pytest.mark.parametrize("seed", range(6))
def test_random_deaths_moves_and_restarts_lose_nothing(tmp_path: Path, clock: VirtualClock, seed: int) -> None:
    """Hosts die, hang, drain and leak, the placement is replaced in mid-move: the steps are those of a quiet run."""
    chance = random.Random(seed)
    service = Service(tmp_path, clock, num_hosts=3, policy="rebalance", host_timeout_s=3.0)
    service.submit(specs(9, steps=40, save_steps=3))
    faults = (die, hang, leave, leak, restart, restart)
    for _ in range(60):
        if service.placement.is_done():
            break
        if chance.random() < 0.3 and service.transport.living:
            chance.choice(faults)(service, chance)
        service.tick(chance.randint(1, 2))
    for host in service.transport.living:
        host.memory_bytes = 0
    service.run()
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()


def die(service: Service, chance: random.Random) -> None:
    chance.choice(service.transport.living).is_dead = True


def hang(service: Service, chance: random.Random) -> None:
    chance.choice(service.transport.living).is_hung = True


def leave(service: Service, chance: random.Random) -> None:
    host = chance.choice(service.transport.living)
    service.transport.leaving[host.node_id] = service.clock.now_s() + 5.0


def leak(service: Service, chance: random.Random) -> None:
    chance.choice(service.transport.living).memory_bytes = 2000


def restart(service: Service, chance: random.Random) -> None:
    service.restart()


# -- moves


def test_a_move_brings_the_newest_step_and_a_bundle_is_not_needed(scripted: Service) -> None:
    scripted.submit(specs(2, save_steps=0))
    scripted.tick(5)
    source, target = move(scripted, "job-0")
    scripted.tick(3)
    job = scripted.job("job-0")
    assert (job.record.host, job.record.state, job.record.step) == (target, JobState.TRAINING, 0)
    assert job.progress is not None
    assert job.progress.step >= 4
    assert scripted.kinds("job-0")[-2:] == ["moving", "migrated"]
    held = {h.settings.id: h.jobs for h in scripted.transport.living}
    assert "job-0" in held[target]
    assert "job-0" not in held[source]
    scripted.run()
    scripted.check_integrity()


@pytest.mark.parametrize("what", ["source dies", "target dies", "both die", "placement dies", "source hangs"])
def test_a_move_that_is_cut_short_goes_on_from_the_bundle(scripted: Service, what: str) -> None:
    scripted.submit(specs(2, steps=30))
    scripted.tick(6)
    source, target = move(scripted, "job-0")
    scripted.tick()
    hosts = {h.settings.id: h for h in scripted.launched}
    if what in ("source dies", "both die"):
        hosts[source].is_dead = True
    if what in ("target dies", "both die"):
        hosts[target].is_dead = True
    if what == "source hangs":
        hosts[source].is_hung = True
    if what == "placement dies":
        scripted.restart()
    scripted.run()
    scripted.check_integrity()


def test_a_drained_host_empties_and_ends_and_its_successor_comes(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    assert service.control.drain("h-0") == ("h-0",)
    service.tick(5)
    assert service.launched[0].stopped
    assert {j.record.host for j in service.placement.jobs.open()} <= {"h-1", "h-2"}
    assert "requeued" not in service.kinds()
    service.run()
    service.check_integrity()
    with pytest.raises(InputError, match=r"one that is alive: h-1.*found h-0"):
        service.control.drain("h-0")


def test_metrics_that_a_dying_placement_did_not_write_are_written_by_the_next(service: Service) -> None:
    service.submit(specs(3))
    service.tick(6)
    root = Path(service.settings.storage)
    whole, torn, absent = (root / f"job-{i}" / "metrics.jsonl" for i in range(3))
    before = whole.read_text()
    torn.write_text(torn.read_text()[:-5])
    absent.unlink()
    service.restart()
    service.tick()
    assert whole.read_text().startswith(before)
    service.check_integrity()
    service.run()
    service.check_integrity()


def test_a_host_goes_on_draining_when_placement_begins_again(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    service.control.drain("h-0")
    service.restart()
    service.tick(6)
    assert service.launched[0].stopped
    assert {j.record.host for j in service.placement.jobs.open()} <= {"h-1", "h-2"}
    service.run()
    service.check_integrity()


def test_a_leaving_node_is_emptied_and_asked_for_no_more(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    service.transport.leaving["node-of-h-1"] = service.clock.now_s() + 30
    service.tick()
    assert "h-1" not in service.transport.requested
    leaving = next(h for h in service.placement.view().hosts if h.id == "h-1")
    assert (leaving.state, leaving.leaves_at_s) == ("draining", service.transport.leaving["node-of-h-1"])
    service.tick(5)
    assert service.launched[1].stopped
    service.run()
    service.check_integrity()


def test_a_drain_brings_nobody_to_a_device_it_did_not_ask_for(tmp_path: Path, clock: VirtualClock) -> None:
    types = (HostType(name="gpu", device="cuda", num_gpus=1.0), HostType(name="cpu"))
    service = Service(tmp_path, clock, host_types=types)
    service.submit([dataclasses.replace(make_spec("a", steps=30), device_type="cuda")])
    service.tick(4)
    assert service.job("a").record.host == "gpu-0"
    service.control.drain("gpu-0")
    for _ in range(20):
        service.tick()
        assert not service.job("a").record.host.startswith("cpu")


def test_the_last_host_that_drains_saves_and_queues(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock, num_hosts=1, host_max_steps=30)
    service.submit(specs(3, steps=30, save_steps=0))
    service.run()
    assert [h.settings.id for h in service.launched] == ["h-0", "h-1", "h-2", "h-3"][: len(service.launched)]
    assert len(service.launched) > 2
    assert any("recycled after" in e.detail for e in service.database.events())
    service.check_integrity()


def test_hosts_are_recycled_one_after_the_other(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock, num_hosts=2, host_max_steps=40)
    service.submit(specs(4, steps=80, save_steps=10))
    while not service.placement.is_done():
        service.tick()
        assert sum(h.is_draining for h in service.placement.hosts.values()) <= 1
    assert len([e for e in service.database.events() if "recycled after" in e.detail]) >= 4
    service.check_integrity()


def test_a_leaking_host_is_recycled(service: Service) -> None:
    service.submit(specs(4, steps=150, save_steps=10))
    service.tick(4)
    service.launched[0].memory_bytes = 990
    service.tick(30)
    assert not service.launched[0].stopped
    service.tick(40)
    assert service.launched[0].stopped
    assert "recycled: its memory grows, 990 of 1000 bytes" in next(
        e.detail for e in service.database.events() if e.kind == "host_drains"
    )
    service.run()
    service.check_integrity()


# -- what users ask


def test_pause_saves_and_resume_goes_on(service: Service) -> None:
    service.submit(specs(3, save_steps=0))
    service.tick(5)
    assert service.control.pause(["job-0", "job-2"]) == ("job-0", "job-2")
    service.tick(3)
    assert [s.value for s in service.states().values()] == ["PAUSED", "TRAINING", "PAUSED"]
    assert service.job("job-0").record.step > 0
    service.tick(10)
    assert service.states()["job-0"] is JobState.PAUSED
    assert service.control.resume(["job-0"]) == ("job-0",)
    assert service.control.resume(["job-1"]) == ()
    service.control.resume(["job-2"])
    service.run()
    service.check_integrity()


@pytest.mark.parametrize("how", ["resume", "submit"])
def test_a_job_that_is_asked_back_while_it_is_saved_for_a_pause_goes_on(service: Service, how: str) -> None:
    service.submit(specs(2, steps=20))
    service.tick(5)
    service.control.pause(["job-0"])
    if how == "resume":
        assert service.control.resume(["job-0"]) == ("job-0",)
    else:
        service.submit(specs(2, steps=20))
    assert service.placement.fence_paused() == []
    service.run()
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()


def test_the_same_jobs_again_go_on_and_others_of_their_name_are_refused(service: Service) -> None:
    service.submit(specs(2))
    service.tick(5)
    service.control.pause([])
    service.tick(3)
    service.submit(specs(3))
    with pytest.raises(InputError, match=r'job "job-1": train\.max_steps must be'):
        service.submit([make_spec("job-1", steps=99)])
    service.run()
    assert len(service.states()) == 3
    service.check_integrity()


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


def test_cancelled_jobs_leave_their_host_and_keep_their_bundle(service: Service) -> None:
    service.submit(specs(3, steps=50))
    service.tick(8)
    assert service.control.cancel(["job-1"]) == ("job-1",)
    service.tick(2)
    assert all("job-1" not in h.jobs for h in service.transport.living)
    record = service.job("job-1").record
    assert record.state is JobState.CANCELLED
    assert read_bundle(record.bundle_uri)
    service.run()
    assert service.states()["job-1"] is JobState.CANCELLED
    service.check_integrity()


def test_unknown_names_are_told_all_at_once(service: Service) -> None:
    service.submit(specs(2))
    with pytest.raises(InputError) as caught:
        service.control.pause(["job-0", "jobb", "none"])
    assert [m.value for m in caught.value.mistakes] == ["jobb", "none"]
    assert "job-0, job-1" in caught.value.mistakes[0].allowed


def test_a_device_that_no_host_type_has_is_told_at_submit(service: Service) -> None:
    job = dataclasses.replace(make_spec("job-0"), device_type="cuda")
    with pytest.raises(InputError, match=r'job "job-0": device_type must be .*there are: h \(cpu\) \(found cuda\)'):
        service.submit([job])


def test_who_cannot_save_is_fenced_at_its_last_bundle(service: Service) -> None:
    service.submit(specs(1, steps=50))
    service.tick(8)
    service.launched[0].is_hung = service.launched[1].is_hung = True
    service.control.pause([])
    service.tick(2)
    assert not service.control.is_at_rest([])
    assert service.placement.fence_paused() == ["job-0"]
    assert service.states() == {"job-0": JobState.PAUSED}
    service.check_integrity()


# -- a clock, two bases


def test_a_skewed_clock_is_told_once_and_changes_nothing(service: Service) -> None:
    service.transport.prepare = lambda host: setattr(host, "clock_s", 90_000.0)
    service.submit(specs(2))
    service.run()
    told = [e for e in service.database.events() if e.kind == "clock_skew"]
    assert sorted(e.host for e in told) == ["h-0", "h-1"]
    assert "+8" in told[0].detail
    service.check_integrity()


def test_two_bases_get_hosts_of_their_own(tmp_path: Path, clock: VirtualClock) -> None:
    other = dataclasses.replace(BASE, name="other")
    service = Service(tmp_path, clock, host_types=(HostType(name="h", max_hosts=4),))
    service.submit([make_spec("a", base=BASE), make_spec("b", base=other), make_spec("c", base=other)])
    service.run()
    assert {h.settings.base.name for h in service.launched} == {"tiny-llama", "other"}
    assert len(service.launched) <= 2
    service.check_integrity()


def test_the_ledger_of_a_fake_is_a_real_bundle(service: Service) -> None:
    """The fakes write what real hosts write, or these tests would prove nothing."""
    service.submit(specs(1))
    service.run()
    arrays, meta = read_bundle(service.database.jobs()[0].bundle_uri)
    assert int(arrays["step"][0]) == 10
    assert meta["job"] == "job-0"
    assert isinstance(service.launched[0], FakeHost)


def test_a_database_that_is_away_strands_nobody(service: Service) -> None:
    """Whichever write of a host's loss fails first, and also where the placement actor dies just then."""
    service.submit(specs(6, steps=90))
    service.tick(5)
    for number in range(12):
        service.transport.living[0].is_dead = True
        database, writing, allowed = service.database, service.database._writing, [number // 2]

        def writing_for_a_while() -> AbstractContextManager[Session]:
            allowed[0] -= 1  # noqa: B023
            if allowed[0] < 0:  # noqa: B023
                raise DatabaseError("it is away")
            return writing()  # noqa: B023

        database._writing = writing_for_a_while  # type: ignore[assignment]
        service.clock.advance(1.0)
        service.control.patient_tick()
        database._writing = writing
        if number % 2:
            service.restart()
        service.tick(4)
        assert service.placement.jobs.hosts() <= set(service.placement.hosts)
        assert set(service.placement.hosts) == {h.settings.id for h in service.transport.living}
    service.run()
    service.check_integrity()
