"""The control database: fenced, atomic, exact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from mlora_ray.errors import BaseDiffers, DatabaseError
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import BundleReport, FailureReport, HostInfo, HostSettings, JobSpec, JobState
from mlora_ray.types.hosts import BASE_FILES
from mlora_ray.types.job_identity import spec_differences
from mlora_ray.types.records import Commit, Event, Machine, Reassignment
from tests.conftest import BASE, make_spec, make_step


@pytest.fixture
def database(database_url: str) -> Iterator[ControlDatabase]:
    held = ControlDatabase(database_url)
    held.add_jobs([make_spec("a"), make_spec("b")], 1.0)
    yield held
    held.close()


def bundle(job: str, epoch: int, first: int, last: int, *, is_final: bool = False) -> BundleReport:
    steps = tuple(make_step(job, s) for s in range(first, last + 1))
    uri = f"bundles/{job}/{last}"
    return BundleReport(
        job=job, epoch=epoch, step=last, bundle_uri=uri, sha256="s", steps=steps, is_final=is_final, weights_sha256="w"
    )


def test_specs_and_order_come_back(database: ControlDatabase) -> None:
    assert [r.spec for r in database.jobs()] == [make_spec("a"), make_spec("b")]
    assert {r.state for r in database.jobs()} == {JobState.QUEUED}


def test_names_are_taken_once(database: ControlDatabase) -> None:
    with pytest.raises(DatabaseError, match="exist: a"):
        database.add_jobs([make_spec("a")], 2.0)


def test_commit_moves_the_job_on(database: ControlDatabase) -> None:
    database.change_hands([Reassignment("a", 0, JobState.PLACED, "h")], 1.0, "placed")
    assert database.commit_bundle(bundle("a", 1, 1, 3), 2.0) is Commit.COMMITTED
    assert database.commit_bundle(bundle("a", 1, 4, 10, is_final=True), 3.0) is Commit.COMMITTED
    job = database.jobs()[0]
    assert (job.state, job.step, job.num_tokens, job.weights_sha256) == (JobState.SUCCEEDED, 10, 80, "w")
    assert [s for s, _ in database.steps("a")] == [make_step("a", s) for s in range(1, 11)]
    assert [e.kind for e in database.events()] == ["placed", "saved", "succeeded"]


def test_a_fenced_owner_commits_nothing(database: ControlDatabase) -> None:
    database.change_hands([Reassignment("a", 0, JobState.PLACED, "old")], 1.0, "placed")
    database.change_hands([Reassignment("a", 1, JobState.PLACED, "new")], 2.0, "placed")
    assert database.commit_bundle(bundle("a", 1, 1, 3), 3.0) is Commit.STALE
    assert not database.commit_failure(FailureReport(job="a", epoch=1, step=0, error="x"), 3.0)
    assert database.steps("a") == []
    assert database.jobs()[0].step == 0
    assert database.commit_bundle(bundle("a", 2, 1, 3), 4.0) is Commit.COMMITTED


def test_the_same_report_twice_is_one_commit(database: ControlDatabase) -> None:
    assert database.commit_bundle(bundle("a", 0, 1, 3), 1.0) is Commit.COMMITTED
    assert database.commit_bundle(bundle("a", 0, 1, 3), 2.0) is Commit.STALE
    assert len(database.steps("a")) == 3


def test_an_ended_job_takes_nothing_more(database: ControlDatabase) -> None:
    assert database.commit_failure(FailureReport(job="a", epoch=0, step=0, error="nan"), 1.0)
    assert database.commit_bundle(bundle("a", 0, 1, 3), 2.0) is Commit.STALE
    assert database.change_hands([Reassignment("a", 0, JobState.PLACED, "h")], 3.0, "placed") == []
    assert database.jobs()[0].error == "nan"


def test_a_failure_of_storage_is_still_one_when_it_is_read(database: ControlDatabase) -> None:
    full = FailureReport(job="a", epoch=0, step=0, error="5 attempts: full", is_unsaved=True)
    own = FailureReport(job="b", epoch=0, step=0, error="storage of nan")
    assert all(database.commit_failure(report, 1.0) for report in (full, own))
    kept = {job.spec.name: (job.error, job.is_unsaved) for job in database.jobs()}
    assert (kept["a"], kept["b"]) == (("storage, 5 attempts: full", True), ("storage of nan", False))


def test_steps_that_a_moved_state_brings_again_are_committed_once(database: ControlDatabase) -> None:
    assert database.commit_bundle(bundle("a", 0, 1, 3), 1.0) is Commit.COMMITTED
    database.change_hands([Reassignment("a", 0, JobState.PLACED, "h")], 1.5, "moved")
    assert database.commit_bundle(bundle("a", 1, 2, 6), 2.0) is Commit.COMMITTED
    assert [(s, e) for s, e in database.steps("a")] == [(make_step("a", s), s > 3) for s in range(1, 7)]
    assert database.jobs()[0].num_tokens == 48


@pytest.mark.parametrize(("first", "last", "step"), [(5, 6, 6), (4, 5, 6), (6, 5, 6)])
def test_a_gap_changes_nothing(database: ControlDatabase, first: int, last: int, step: int) -> None:
    """Steps are missing at the front, at the end, or altogether."""
    assert database.commit_bundle(bundle("a", 0, 1, 3), 1.0) is Commit.COMMITTED
    report = dataclasses.replace(bundle("a", 0, first, last), step=step)
    assert database.commit_bundle(report, 2.0) is Commit.GAP
    assert database.jobs()[0].step == 3
    assert len(database.steps("a")) == 3
    assert database.kept_bundles("a") == [(3, "bundles/a/3")]
    assert [e.kind for e in database.events()] == ["saved"]


def test_a_commit_is_all_or_nothing(database: ControlDatabase, database_url: str) -> None:
    """A step that is there already (it cannot be, but if it were) takes the whole commit with it."""
    assert database.commit_bundle(bundle("a", 0, 1, 3), 1.0) is Commit.COMMITTED
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE steps SET step = 5 WHERE step = 3"))
    engine.dispose()
    with pytest.raises(DatabaseError):
        database.commit_bundle(bundle("a", 0, 4, 6), 2.0)
    assert database.jobs()[0].step == 3
    assert len(database.steps("a")) == 3


def test_a_final_bundle_may_hold_no_new_step(database: ControlDatabase) -> None:
    assert database.commit_bundle(bundle("a", 0, 1, 10), 1.0) is Commit.COMMITTED
    assert database.commit_bundle(bundle("a", 0, 11, 10, is_final=True), 2.0) is Commit.COMMITTED
    assert database.jobs()[0].state is JobState.SUCCEEDED


def test_roll_back_drops_what_came_later(database: ControlDatabase) -> None:
    database.commit_bundle(bundle("a", 0, 1, 3), 1.0)
    database.commit_bundle(bundle("a", 0, 4, 6), 1.0)
    database.roll_back("a", 3, "bundles/a/3", 2.0, "torn")
    assert [s.step for s, _ in database.steps("a")] == [1, 2, 3]
    job = database.jobs()[0]
    assert (job.step, job.bundle_uri, job.num_tokens) == (3, "bundles/a/3", 24)
    assert database.commit_bundle(bundle("a", 0, 4, 6), 3.0) is Commit.COMMITTED


def test_floats_come_back_bit_for_bit(database: ControlDatabase) -> None:
    odd = dataclasses.replace(make_step("a", 1), loss=0.1 + 0.2, grad_norm=math.nextafter(1.0, 2.0), eval_loss=1 / 3)
    report = dataclasses.replace(bundle("a", 0, 1, 1), steps=(odd,))
    assert database.commit_bundle(report, 1.0) is Commit.COMMITTED
    assert database.steps("a") == [(odd, 0)]


def host_settings(name: str) -> HostSettings:
    labels = (("zone", "a"), ("market", "spot"))
    return HostSettings(id=name, base=BASE, bundle_root="s3://b", page_dir="/p", labels=labels, num_cpus=0.5)


def host_info(name: str) -> HostInfo:
    sizes = {"memory_limit_bytes": 1, "base_bytes": 1, "activation_bytes": 1, "adapter_bytes": 1, "token_budget": 1}
    where = {"node_id": f"node of {name}", "node_ip": "10.0.0.1"}
    return HostInfo(id=name, base=BASE.id, base_sha256="b", device_type="cpu", pid=7, numerics="n1", **where, **sizes)


def test_a_hosts_life(database: ControlDatabase) -> None:
    assert database.next_host_number() == 0
    database.add_host(host_settings("cpu-0"), "mlora-cpu-0", 1.0)
    database.add_host(host_settings("cpu-1"), "mlora-cpu-1", 2.0)
    assert [h.settings for h in database.hosts()] == [host_settings("cpu-0"), host_settings("cpu-1")]
    assert (database.hosts()[0].state, database.hosts()[0].joined_at_s) == ("starting", None)
    database.host_joined(host_info("cpu-0"), 3.0)
    database.host_joined(host_info("cpu-0"), 9.0)  # adopted again
    joined = database.hosts()[0]
    assert (joined.state, joined.node_id, joined.pid, joined.joined_at_s) == ("alive", "node of cpu-0", 7, 3.0)
    database.set_host_state("cpu-0", "draining", 4.0, "spot notice")
    database.host_joined(host_info("cpu-0"), 4.5)
    assert (database.hosts()[0].state, database.hosts()[0].why) == ("draining", "spot notice")
    database.set_host_state("cpu-0", "gone", 5.0, "left")
    assert [h.settings.id for h in database.hosts()] == ["cpu-1"]
    database.host_joined(host_info("cpu-0"), 6.0)
    database.set_host_state("cpu-0", "draining", 7.0)
    gone = database.hosts(is_gone_included=True)[0]
    assert (gone.state, gone.why, gone.gone_at_s) == ("gone", "left", 5.0)
    assert database.next_host_number() == 2


def test_hosts_that_are_not_known_and_ids_used_twice(database: ControlDatabase) -> None:
    database.add_host(host_settings("cpu-0"), "x", 1.0)
    database.set_host_state("cpu-0", "gone", 2.0)
    with pytest.raises(DatabaseError, match="'cpu-0' exists"):
        database.add_host(host_settings("cpu-0"), "x", 3.0)
    with pytest.raises(DatabaseError, match="'cpu-9' is not known"):
        database.host_joined(host_info("cpu-9"), 3.0)
    with pytest.raises(DatabaseError, match="'cpu-9' is not known"):
        database.set_host_state("cpu-9", "gone", 3.0)
    with pytest.raises(ValueError, match="state 'dead'; allowed: starting, alive, draining, gone"):
        database.set_host_state("cpu-0", "dead", 3.0)


def test_a_base_that_differs_between_nodes_names_both(database: ControlDatabase) -> None:
    database.bind_base("tiny:float32", "aaa", "cpu-0", "node-0")
    database.bind_base("tiny:float32", "aaa", "cpu-1", "node-1")
    database.bind_base("tiny:bfloat16", "bbb", "cpu-1", "node-1")
    with pytest.raises(BaseDiffers, match=r"node-2 \(host cpu-2\).* bbb, on node node-0 \(host cpu-0\) they had aaa"):
        database.bind_base("tiny:float32", "bbb", "cpu-2", "node-2")


def test_a_config_that_differs_says_so(database: ControlDatabase) -> None:
    """Other files beside the same weights, on another node or after `--resume`."""
    database.bind_base("tiny:float32", "aaa", "cpu-0", "node-0")
    database.bind_base(f"tiny:float32{BASE_FILES}", "ccc", "cpu-0", "node-0")
    with pytest.raises(BaseDiffers, match=r"'tiny:float32' is not .* its config, tokenizer or chat template have"):
        database.bind_base(f"tiny:float32{BASE_FILES}", "ddd", "cpu-1", "node-1")


def test_the_first_numerics_are_the_machine(database: ControlDatabase) -> None:
    assert database.machine() is None
    database.add_run(machine=Machine("cpu", 2), command="train", base="tiny", started_at_s=1.0)
    assert database.machine() == Machine("cpu", 2)
    database.bind_numerics("n1", {"versions.torch": "2.13.0", "a": "1"}, "cuda", 4)
    database.bind_numerics("n0", {"versions.torch": "2.14.0"}, "cpu", 8)
    database.bind_numerics("n1", {"versions.torch": "changed"}, "cpu", 1)
    assert database.machine() == Machine("cuda", 4, (("versions.torch", "2.13.0"), ("a", "1")))


def test_jobs_keep_the_numerics_they_began_on(database: ControlDatabase) -> None:
    database.change_hands([Reassignment("a", 0, JobState.PLACED, "h")], 1.0, "placed")
    database.change_hands([Reassignment("b", 0, JobState.MIGRATING, "h")], 1.0, "moved")
    assert database.jobs()[0].numerics == ""
    database.start_jobs([("a", 1), ("b", 0)], "n1")
    a, b = database.jobs()
    assert (a.state, a.numerics, b.state, b.numerics) == (JobState.TRAINING, "n1", JobState.MIGRATING, "")
    database.start_jobs([("a", 1), ("b", 1)], "n2")
    a, b = database.jobs()
    assert (a.numerics, b.state, b.numerics) == ("n1", JobState.TRAINING, "n2")
    database.commit_bundle(bundle("a", 1, 1, 3), 2.0)
    database.roll_back("a", 0, "", 3.0, "torn")
    assert database.jobs()[0].numerics == ""


def test_commands_of_users_fence_owners_off(database: ControlDatabase) -> None:
    database.add_jobs([make_spec("c"), make_spec("d")], 1.0)
    database.change_hands([Reassignment("a", 0, JobState.PLACED, "h")], 1.0, "placed")
    database.commit_bundle(bundle("b", 0, 1, 10, is_final=True), 1.0)
    database.commit_failure(FailureReport(job="c", epoch=0, step=0, error="nan"), 1.0)
    assert database.pause(["d", "a", "b", "c", "unknown"], 2.0) == ["d", "a"]
    assert database.pause(["a"], 2.0) == []
    assert database.commit_bundle(bundle("a", 1, 1, 3), 3.0) is Commit.STALE
    assert database.queue(["a", "b", "c"], 4.0) == ["a", "c"]
    assert database.cancel(["a", "b", "d"], 5.0) == ["a", "d"]
    assert database.queue(["a"], 6.0) == []
    found = {r.spec.name: (r.state.value, r.epoch, r.host, r.error) for r in database.jobs()}
    assert found == {
        "a": ("CANCELLED", 4, "", ""),
        "b": ("SUCCEEDED", 0, "", ""),
        "c": ("QUEUED", 1, "", ""),
        "d": ("CANCELLED", 2, "", ""),
    }


def test_kept_bundles_of_all(database: ControlDatabase) -> None:
    database.commit_bundle(bundle("a", 0, 1, 3), 1.0)
    database.commit_bundle(bundle("a", 0, 4, 6), 1.0)
    database.commit_bundle(bundle("b", 0, 1, 2), 1.0)
    database.forget_bundles(["bundles/a/3"])
    assert database.kept_bundles_of_all() == {"a": [(6, "bundles/a/6")], "b": [(2, "bundles/b/2")]}
    assert database.kept_bundles("nobody") == []


def test_events_by_page_and_job(database: ControlDatabase) -> None:
    for i in range(6):
        database.add_event(Event(at_s=float(i), kind=f"k{i}", job="ab"[i % 2], id=77))
    found = database.events()
    ids = [e.id for e in found]
    assert ids == sorted(set(ids))
    assert [e.kind for e in found] == [f"k{i}" for i in range(6)]
    assert [e.kind for e in database.events(after=ids[2])] == ["k3", "k4", "k5"]
    assert [e.kind for e in database.events(job="b")] == ["k1", "k3", "k5"]
    assert [e.kind for e in database.events(after=ids[0], job="a", limit=1)] == ["k2"]


def test_differences_name_job_and_field() -> None:
    def changed(spec: JobSpec) -> JobSpec:
        rows = dataclasses.replace(spec.train_rows, uri="/elsewhere")
        return dataclasses.replace(spec, train_rows=rows, lora=dataclasses.replace(spec.lora, r=8))

    here = [make_spec("a"), make_spec("b")]
    assert spec_differences(here, here, "jobs.yaml") == []
    mistakes = [str(m) for m in spec_differences(here, [changed(here[0]), make_spec("c")], "jobs.yaml")]
    assert len(mistakes) == 3
    assert mistakes[0] == 'jobs.yaml: job "c": name is a new name: the run in this directory has no such job'
    assert mistakes[2] == 'jobs.yaml: job "a": lora.r must be 4: the run in this directory began with it (found 8)'
