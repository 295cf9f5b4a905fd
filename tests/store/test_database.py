"""The control database: fenced, atomic, exact."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mlora_ray.errors import MloraError
from mlora_ray.store.database import ControlDatabase
from mlora_ray.store.records import DatabaseError, Machine, Ownership, spec_differences
from mlora_ray.types import BundleReport, FailureReport, JobSpec, JobState
from tests.conftest import make_spec, make_step


@pytest.fixture
def database(tmp_path: Path) -> ControlDatabase:
    held = ControlDatabase(f"sqlite:///{tmp_path}/control.db")
    held.add_jobs([make_spec("a"), make_spec("b")], 1.0)
    return held


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
    database.change_hands([Ownership("a", 0, JobState.PLACED, "h")], 1.0, "placed")
    assert database.commit_bundle(bundle("a", 1, 1, 3), 2.0)
    assert database.commit_bundle(bundle("a", 1, 4, 10, is_final=True), 3.0)
    job = database.jobs()[0]
    assert (job.state, job.step, job.num_tokens, job.weights_sha256) == (JobState.SUCCEEDED, 10, 80, "w")
    assert [s for s, _ in database.steps("a")] == [make_step("a", s) for s in range(1, 11)]
    assert [e.kind for e in database.events()] == ["placed", "saved", "succeeded"]


def test_a_fenced_owner_commits_nothing(database: ControlDatabase) -> None:
    database.change_hands([Ownership("a", 0, JobState.PLACED, "old")], 1.0, "placed")
    database.change_hands([Ownership("a", 1, JobState.PLACED, "new")], 2.0, "placed")
    assert not database.commit_bundle(bundle("a", 1, 1, 3), 3.0)
    assert not database.commit_failure(FailureReport(job="a", epoch=1, step=0, error="x"), 3.0)
    assert database.steps("a") == []
    assert database.jobs()[0].step == 0
    assert database.commit_bundle(bundle("a", 2, 1, 3), 4.0)


def test_the_same_report_twice_is_one_commit(database: ControlDatabase) -> None:
    assert database.commit_bundle(bundle("a", 0, 1, 3), 1.0)
    assert not database.commit_bundle(bundle("a", 0, 1, 3), 2.0)
    assert len(database.steps("a")) == 3


def test_an_ended_job_takes_nothing_more(database: ControlDatabase) -> None:
    assert database.commit_failure(FailureReport(job="a", epoch=0, step=0, error="nan"), 1.0)
    assert not database.commit_bundle(bundle("a", 0, 1, 3), 2.0)
    assert database.change_hands([Ownership("a", 0, JobState.PLACED, "h")], 3.0, "placed") == []
    assert database.jobs()[0].error == "nan"


def test_a_commit_is_all_or_nothing(database: ControlDatabase) -> None:
    """A step that is there already (it cannot be, but if it were) takes the whole commit with it."""
    assert database.commit_bundle(bundle("a", 0, 1, 3), 1.0)
    with pytest.raises(DatabaseError):
        database.commit_bundle(bundle("a", 0, 3, 6), 2.0)
    assert database.jobs()[0].step == 3
    assert len(database.steps("a")) == 3


def test_a_final_bundle_may_hold_no_new_step(database: ControlDatabase) -> None:
    assert database.commit_bundle(bundle("a", 0, 1, 10), 1.0)
    assert database.commit_bundle(bundle("a", 0, 11, 10, is_final=True), 2.0)
    assert database.jobs()[0].state is JobState.SUCCEEDED


def test_requeue_keeps_what_succeeded_and_fences_the_rest(database: ControlDatabase) -> None:
    database.commit_bundle(bundle("a", 0, 1, 10, is_final=True), 1.0)
    database.commit_failure(FailureReport(job="b", epoch=0, step=0, error="nan"), 1.0)
    database.requeue(2.0)
    a, b = database.jobs()
    assert (a.state, a.epoch) == (JobState.SUCCEEDED, 0)
    assert (b.state, b.epoch, b.error) == (JobState.QUEUED, 1, "")


def test_roll_back_drops_what_came_later(database: ControlDatabase) -> None:
    database.commit_bundle(bundle("a", 0, 1, 3), 1.0)
    database.commit_bundle(bundle("a", 0, 4, 6), 1.0)
    database.roll_back("a", 3, "bundles/a/3", 2.0, "torn")
    assert [s.step for s, _ in database.steps("a")] == [1, 2, 3]
    job = database.jobs()[0]
    assert (job.step, job.bundle_uri, job.num_tokens) == (3, "bundles/a/3", 24)
    assert database.commit_bundle(bundle("a", 0, 4, 6), 3.0)


def test_floats_come_back_bit_for_bit(database: ControlDatabase) -> None:
    odd = dataclasses.replace(make_step("a", 1), loss=0.1 + 0.2, grad_norm=math.nextafter(1.0, 2.0), eval_loss=1 / 3)
    report = dataclasses.replace(bundle("a", 0, 1, 1), steps=(odd,))
    assert database.commit_bundle(report, 1.0)
    assert database.steps("a") == [(odd, 0)]


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/control.db"
    ControlDatabase(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = 99"))
    engine.dispose()
    with pytest.raises(DatabaseError, match=r"newer version \(99\)"):
        ControlDatabase(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_text("not a database at all, but long enough to be read as one\n" * 40)
    with pytest.raises(DatabaseError, match="not a database"):
        ControlDatabase(f"sqlite:///{tmp_path}/control.db")


def test_another_base_is_refused(database: ControlDatabase) -> None:
    assert database.machine() is None
    run = {"command": "train", "base": "tiny", "started_at_s": 1.0}
    first = database.add_run(machine=Machine("cpu", 2), **run)
    database.bind_host(first, "aaa", {})
    database.bind_host(first, "aaa", {})
    with pytest.raises(MloraError, match="began with aaa"):
        database.bind_host(database.add_run(machine=Machine("cuda", 1), **run), "bbb", {})
    assert database.machine() == Machine("cpu", 2)


def test_a_host_on_another_machine_is_refused(database: ControlDatabase) -> None:
    run = {"command": "train", "base": "tiny", "started_at_s": 1.0}
    facts = {"versions.torch": "2.13.0", "native_kernels": "True"}
    first = database.add_run(machine=Machine("cpu", 2), **run)
    database.bind_host(first, "aaa", facts)
    second = database.add_run(machine=Machine("cpu", 2), **run)
    database.bind_host(second, "aaa", facts)
    with pytest.raises(MloraError, match=r"native_kernels 'False' \(was 'True'\)"):
        database.bind_host(second, "aaa", facts | {"native_kernels": "False"})
    assert database.machine() == Machine("cpu", 2, tuple(facts.items()))


def test_differences_name_job_and_field() -> None:
    def changed(spec: JobSpec) -> JobSpec:
        rows = dataclasses.replace(spec.train_rows, uri="/elsewhere")
        return dataclasses.replace(spec, train_rows=rows, lora=dataclasses.replace(spec.lora, r=8))

    here = [make_spec("a"), make_spec("b")]
    assert spec_differences(here, here, "jobs.yaml") == []
    mistakes = [str(m) for m in spec_differences(here, [changed(here[0]), make_spec("c")], "jobs.yaml")]
    assert len(mistakes) == 3
    assert "jobs.a.lora.r: '8'" in mistakes[2]
    assert "began with 4" in mistakes[2]
