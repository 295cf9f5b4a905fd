"""Random lives of jobs under two services: the database and a model in plain Python agree after every step."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlora_ray.errors import LeaseLost
from mlora_ray.store.database.connections import open_engine
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import BundleReport, FailureReport, JobState, StepReport
from mlora_ray.types.records import Commit, Reassignment
from tests.conftest import make_spec, make_step
from tests.postgres import PostgresServer

NAMES = tuple("abcdef")
HOSTS = ("h-0", "h-1")
OWNED = (JobState.PLACED, JobState.MIGRATING)


@dataclasses.dataclass
class ModelJob:
    """One job as a person would keep it on paper."""

    state: JobState = JobState.QUEUED
    epoch: int = 0
    host: str = ""
    steps: list[tuple[StepReport, int]] = dataclasses.field(default_factory=list)  # each with its epoch
    bundles: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # (step, epoch) that are kept
    uri: str = ""
    error: str = ""
    numerics: str = ""

    @property
    def step(self) -> int:
        return len(self.steps)

    def hand(self, state: JobState, host: str) -> None:
        self.epoch, self.state, self.host = self.epoch + 1, state, host

    def commit(self, report: BundleReport) -> Commit:
        if self.state.is_final or report.epoch != self.epoch:
            return Commit.STALE
        if report.step < self.step or (report.step == self.step and not report.is_final):
            return Commit.STALE
        after = [*range(1, self.step + 1), *(s.step for s in report.steps if s.step > self.step)]
        if after != list(range(1, report.step + 1)):
            return Commit.GAP
        self.steps += [(s, report.epoch) for s in report.steps if s.step > self.step]
        self.bundles = [b for b in self.bundles if b != (report.step, report.epoch)] + [(report.step, report.epoch)]
        self.uri = report.bundle_uri
        if report.is_final:
            self.state = JobState.SUCCEEDED
        return Commit.COMMITTED

    def go_back(self, step: int, uri: str) -> None:
        self.steps, self.uri = self.steps[:step], uri
        self.bundles = [b for b in self.bundles if b[0] <= step]
        self.numerics = self.numerics if step else ""


def uri_of(name: str, step: int, epoch: int) -> str:
    return f"bundles/{name}/{step}-{epoch}"


class Lives(RuleBasedStateMachine):
    """`new_url` is set by the test. Service 0 holds the lease at first; the other has lost it."""

    new_url: Callable[[], str]

    def __init__(self) -> None:
        super().__init__()
        url = type(self).new_url()
        self.services = (ControlDatabase(url), ControlDatabase(url))
        self.holder = 1
        for index in (1, 0):
            self.take_over(index)
        self.jobs: dict[str, ModelJob] = {}
        self.now_s = 0.0

    def write(self, service: int, ask: Callable[[ControlDatabase], Any]) -> tuple[bool, Any]:
        """(whether it may write, what it answered)."""
        self.now_s += 1.0
        if service == self.holder:
            return True, ask(self.services[service])
        with pytest.raises(LeaseLost):
            ask(self.services[service])
        return False, None

    service = st.sampled_from((0, 0, 0, 0, 1))  # counted from the one that holds the lease
    name = st.sampled_from(NAMES)
    epoch_off = st.sampled_from((0, 0, 0, 0, -1, 1))

    def who(self, service: int) -> int:
        return (self.holder + service) % 2

    @initialize()
    def submit_most(self) -> None:
        self.submit(0, set(NAMES[:-1]))

    @rule(service=service, names=st.sets(name, min_size=1))
    def submit(self, service: int, names: set[str]) -> None:
        new = sorted(names - self.jobs.keys())
        done, _ = self.write(self.who(service), lambda d: d.add_jobs([make_spec(n) for n in new], self.now_s))
        self.jobs |= {n: ModelJob() for n in new if done}

    @rule(service=service, name=name, off=epoch_off, state=st.sampled_from((*OWNED, JobState.QUEUED, JobState.PAUSED)),
          host=st.sampled_from(HOSTS))  # fmt: skip
    def hand(self, service: int, name: str, off: int, state: JobState, host: str) -> None:
        job = self.jobs.get(name, ModelJob())
        host = host if state in OWNED else ""
        change = Reassignment(name, job.epoch + off, state, host)
        done, changed = self.write(self.who(service), lambda d: d.change_hands([change], self.now_s, "moved"))
        if done:
            is_due = name in self.jobs and off == 0 and not job.state.is_final
            assert changed == ([name] if is_due else [])
            if is_due:
                job.hand(state, host)

    @rule(service=service, name=name, off=epoch_off, numerics=st.sampled_from(("n-0", "n-1")))
    def start(self, service: int, name: str, off: int, numerics: str) -> None:
        job = self.jobs.get(name, ModelJob(state=JobState.CANCELLED))
        done, _ = self.write(self.who(service), lambda d: d.start_jobs([(name, job.epoch + off)], numerics))
        if done and off == 0 and not job.state.is_final:
            job.state = JobState.TRAINING if job.state in OWNED else job.state
            job.numerics = job.numerics or numerics

    @precondition(lambda self: self.open_names())
    @rule(data=st.data(), again=st.integers(0, 3), length=st.integers(1, 4))
    def commit_what_is_due(self, data: st.DataObject, again: int, length: int) -> None:
        """The owner's next steps; a moved state brings `again` steps that are there."""
        name = data.draw(st.sampled_from(self.open_names()))
        step = self.jobs[name].step
        assert self.commit(0, name, 0, max(1, step + 1 - again), step + length, step + length) is Commit.COMMITTED

    @precondition(lambda self: any(self.jobs[n].step > 5 for n in self.open_names()))
    @rule(data=st.data(), length=st.integers(0, 2))
    def commit_the_end(self, data: st.DataObject, length: int) -> None:
        name = data.draw(st.sampled_from([n for n in self.open_names() if self.jobs[n].step > 5]))
        step = self.jobs[name].step
        outcome = self.commit(0, name, 0, step + 1, step + length, step + length, is_final=True)
        assert outcome is Commit.COMMITTED

    @rule(service=service, name=name, off=epoch_off, begins=st.integers(-3, 2), length=st.integers(0, 4),
          beyond=st.sampled_from((0, 0, 1, -1)), is_final=st.booleans())  # fmt: skip
    def commit_anything(
        self, service: int, name: str, off: int, begins: int, length: int, beyond: int, is_final: bool
    ) -> None:
        step = self.jobs[name].step if name in self.jobs else 0
        first = max(1, step + 1 + begins)
        last = first + length - 1
        self.commit(service, name, off, first, last, max(1, last + beyond), is_final)

    def open_names(self) -> list[str]:
        return [n for n, j in self.jobs.items() if not j.state.is_final]

    def commit(
        self, service: int, name: str, off: int, first: int, last: int, step: int, is_final: bool = False
    ) -> Commit | None:
        """Of what the database answered, after it was compared; None where the service may not write."""
        job = self.jobs.get(name, ModelJob(state=JobState.CANCELLED))
        epoch, uri = job.epoch + off, uri_of(name, step, job.epoch + off)
        made = [
            dataclasses.replace(make_step(name, s), num_tokens=s, loss=s + epoch / 7) for s in range(first, last + 1)
        ]
        report = BundleReport(job=name, epoch=epoch, step=step, bundle_uri=uri, sha256="s", steps=tuple(made))
        report = dataclasses.replace(report, is_final=is_final, weights_sha256="w" if is_final else "")
        host = job.host if off == 0 else "h-fenced"
        done, outcome = self.write(self.who(service), lambda d: d.commit_bundle(report, self.now_s, host))
        if not done:
            return None
        assert outcome is job.commit(report)
        return Commit(outcome)

    @rule(service=service, name=name, off=epoch_off)
    def fail(self, service: int, name: str, off: int) -> None:
        job = self.jobs.get(name, ModelJob(state=JobState.CANCELLED))
        report = FailureReport(job=name, epoch=job.epoch + off, step=job.step, error="nan")
        done, failed = self.write(self.who(service), lambda d: d.commit_failure(report, self.now_s, job.host))
        if done:
            assert failed == (off == 0 and not job.state.is_final)
            if failed:
                job.state, job.error = JobState.FAILED, "nan"

    @rule(
        service=service,
        names=st.sets(name, max_size=2),
        command=st.sampled_from(("queue", "pause", "queue", "pause", "cancel")),
    )
    def command(self, service: int, names: set[str], command: str) -> None:
        asked = sorted(names)
        done, changed = self.write(self.who(service), lambda d: getattr(d, command)(asked, self.now_s))
        if done:
            mine = {n: self.jobs[n] for n in asked if n in self.jobs}
            stopped = (JobState.PAUSED, JobState.FAILED)
            becomes = {
                "queue": lambda j: j.state in stopped,
                "pause": lambda j: not j.state.is_final and j.state is not JobState.PAUSED,
                "cancel": lambda j: not j.state.is_final,
            }[command]
            assert changed == [n for n, j in mine.items() if becomes(j)]
            to = {"queue": JobState.QUEUED, "pause": JobState.PAUSED, "cancel": JobState.CANCELLED}[command]
            for n in changed:
                self.jobs[n].hand(to, "")
                self.jobs[n].error = ""

    @precondition(lambda self: any(j.bundles and not j.state.is_final for j in self.jobs.values()))
    @rule(service=service, data=st.data())
    def roll_back(self, service: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([n for n, j in self.jobs.items() if j.bundles and not j.state.is_final]))
        job = self.jobs[name]
        step, uri = data.draw(st.sampled_from([(0, ""), *((s, uri_of(name, s, e)) for s, e in job.bundles)]))
        done, _ = self.write(self.who(service), lambda d: d.roll_back(name, step, uri, self.now_s, "torn"))
        if done:
            job.go_back(step, uri)

    @precondition(lambda self: any(len(j.bundles) > 1 for j in self.jobs.values()))
    @rule(service=service, data=st.data())
    def forget(self, service: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([n for n, j in self.jobs.items() if len(j.bundles) > 1]))
        job = self.jobs[name]
        oldest = sorted(job.bundles)[0]
        if uri_of(name, *oldest) == job.uri:
            return
        done, _ = self.write(self.who(service), lambda d: d.forget_bundles([uri_of(name, *oldest)]))
        if done:
            job.bundles.remove(oldest)

    @rule(index=st.sampled_from((0, 1)))
    def take_over(self, index: int) -> None:
        """The other stands still."""
        self.services[index].take_lease(f"service {index}", patience_s=0.0, sleep=lambda _: None)
        self.holder = index

    @invariant()
    def model_and_database_agree(self) -> None:
        database = self.services[0]
        records = {r.spec.name: r for r in database.jobs()}
        assert records.keys() == self.jobs.keys()
        kept = database.kept_bundles_of_all()
        for name, job in self.jobs.items():
            r = records[name]
            assert (r.state, r.epoch, r.host) == (job.state, job.epoch, job.host)
            assert (r.step, r.bundle_uri, r.error, r.numerics) == (job.step, job.uri, job.error, job.numerics)
            assert r.num_tokens == sum(s.num_tokens for s, _ in job.steps)
            assert database.steps(name) == job.steps
            assert kept.get(name, []) == [(s, uri_of(name, s, e)) for s, e in sorted(job.bundles)]

    @invariant()
    def integrity_holds(self) -> None:
        self.services[0].check_integrity()

    def teardown(self) -> None:
        for service in self.services:
            service.close()


def run(new_url: Callable[[], str], max_examples: int) -> None:
    machine = type("Lives", (Lives,), {"new_url": staticmethod(new_url)})
    chosen = settings(
        max_examples=max_examples,
        stateful_step_count=50,
        deadline=None,
        phases=(Phase.reuse, Phase.generate),  # fifty steps read well enough; shrinking them takes minutes
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)


def test_random_lives_on_sqlite() -> None:
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # each commit is synced: to a disk that takes its time
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        numbers = iter(range(1_000_000))
        run(lambda: f"sqlite:///{folder}/{next(numbers)}.db", max_examples=25)


def test_random_lives_on_postgresql(postgres: PostgresServer) -> None:
    run(postgres.new_schema, max_examples=5)


BROKEN = {
    "UPDATE steps SET step = 9 WHERE step = 2": r"its steps are \[1, 3, 9\], it is at 3",
    "DELETE FROM steps WHERE step = 3": r"its steps are \[1, 2\], it is at 3",
    "UPDATE jobs SET num_tokens = 7": "its steps have 24 tokens, it says 7",
    "UPDATE steps SET epoch = 0 WHERE step = 3": "step 3 is of epoch 0, the one before of 1",
    "UPDATE jobs SET epoch = 0": "step 3 is of epoch 1, the job at 0",
    "UPDATE bundles SET step = 4": "bundle u is of step 4",
    "UPDATE bundles SET is_kept = (1 = 0)": "its bundle 'u' is not among those kept of step 3",
    "UPDATE jobs SET bundle_uri = 'v'": "its bundle 'v' is not among those kept of step 3",
    "UPDATE jobs SET host = ''": "it is PLACED on host ''",
    "UPDATE jobs SET state = 'QUEUED'": "it is QUEUED on host 'h'",
    "UPDATE jobs SET state = 'SUCCEEDED'": "it is SUCCEEDED, the events say not ended",
    "INSERT INTO events (at_s, kind, job, host, epoch, detail) VALUES (9, 'saved', 'a', 'x', 1, '')": (
        "epoch 1 had several hosts: h, x"
    ),
    "INSERT INTO events (at_s, kind, job, host, epoch, detail) VALUES (9, 'failed', 'a', 'h', 1, '')": (
        "it is PLACED, the events say failed"
    ),
}


@pytest.mark.parametrize("statement", sorted(BROKEN))
def test_the_check_sees_what_is_broken(database_url: str, statement: str) -> None:
    database = ControlDatabase(database_url)
    database.add_jobs([make_spec("a")], 1.0)
    database.change_hands([Reassignment("a", 0, JobState.PLACED, "h")], 1.0, "placed")
    steps = tuple(make_step("a", s) for s in (1, 2, 3))
    report = BundleReport(job="a", epoch=1, step=3, bundle_uri="u", sha256="s", steps=steps)
    database.commit_bundle(report, 2.0, "h")
    database.check_integrity()
    engine = open_engine(database_url)
    with engine.execution_options(is_writing=True).begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
    with pytest.raises(AssertionError, match=f"^job a: .*{BROKEN[statement]}"):
        database.check_integrity()
    database.close()


def test_the_check_sees_life_after_the_end(database_url: str) -> None:
    database = ControlDatabase(database_url)
    database.add_jobs([make_spec("a")], 1.0)
    database.cancel(["a"], 2.0)
    engine = open_engine(database_url)
    with engine.execution_options(is_writing=True).begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET state = 'QUEUED'")
    engine.dispose()
    database.change_hands([Reassignment("a", 1, JobState.PLACED, "h")], 3.0, "placed")
    with pytest.raises(AssertionError, match=r"placed \(event 2\) after it had cancelled"):
        database.check_integrity()
    database.close()
