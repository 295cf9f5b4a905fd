"""One service at a time writes to a control database; whoever has lost it writes nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mlora_ray.errors import DatabaseError, LeaseLost
from mlora_ray.store.database.connections import open_engine
from mlora_ray.store.database.control_database import ControlDatabase, lease
from mlora_ray.store.database.tables import LeaseRow, Table
from mlora_ray.types import BundleReport, FailureReport, HostSettings, JobState
from mlora_ray.types.records import Commit, Event, Machine, Reassignment
from tests.conftest import BASE, make_spec, make_step
from tests.postgres import PostgresServer
from tests.store.database.test_control_database import host_info

FIRST, SECOND = "mlora on Ray cluster 10.0.0.1:6379", "mlora on Ray cluster 10.0.0.2:6379"
REPORT = BundleReport(job="a", epoch=0, step=1, bundle_uri="u", sha256="s", steps=(make_step("a", 1),))
SETTINGS = HostSettings(id="cpu-1", base=BASE, bundle_root="", page_dir="")
MACHINE = Machine("cpu", 1)
WRITES: dict[str, Callable[[ControlDatabase], object]] = {
    "beat": lambda d: d.beat(),
    "add_run": lambda d: d.add_run(command="c", base="b", machine=MACHINE, started_at_s=1.0),
    "bind_base": lambda d: d.bind_base("base", "sha", "cpu-0", "node"),
    "bind_numerics": lambda d: d.bind_numerics("n9", {"a": "b"}, "cpu", 1),
    "add_host": lambda d: d.add_host(SETTINGS, "x", 1.0),
    "host_joined": lambda d: d.host_joined(host_info("cpu-0"), 1.0),
    "set_host_state": lambda d: d.set_host_state("cpu-0", "gone", 1.0),
    "add_jobs": lambda d: d.add_jobs([make_spec("z")], 1.0),
    "refresh_specs": lambda d: d.refresh_specs([make_spec("a", steps=99)]),
    "change_hands": lambda d: d.change_hands([Reassignment("a", 0, JobState.PLACED, "h")], 1.0, "placed"),
    "start_jobs": lambda d: d.start_jobs([("a", 0)], "n"),
    "queue": lambda d: d.queue(["b"], 1.0),
    "pause": lambda d: d.pause(["a"], 1.0),
    "cancel": lambda d: d.cancel(["a"], 1.0),
    "commit_bundle": lambda d: d.commit_bundle(REPORT, 1.0),
    "commit_bundles": lambda d: d.commit_bundles([(REPORT, "h-0")], 1.0),
    "commit_failure": lambda d: d.commit_failure(FailureReport(job="a", epoch=0, step=0, error="e"), 1.0),
    "forget_bundles": lambda d: d.forget_bundles(["bundles/b"]),
    "roll_back": lambda d: d.roll_back("b", 0, "", 1.0, "why"),
    "add_event": lambda d: d.add_event(Event(at_s=1.0, kind="k")),
}
READS = {"machine", "next_host_number", "hosts", "jobs", "steps", "kept_bundles", "kept_bundles_of_all", "last_losses"}
READS |= {"events"}
OTHERS = {"take_lease", "release_lease", "close", "check_integrity", "is_in_doubt", "settle_doubt"}


@pytest.fixture
def services(database_url: str) -> Iterator[tuple[ControlDatabase, ControlDatabase]]:
    """Two placement services on one database. Job a waits, b is paused at step 1, host cpu-0 is launched."""
    first, second = ControlDatabase(database_url), ControlDatabase(database_url)
    first.add_jobs([make_spec("a"), make_spec("b")], 1.0)
    first.add_host(HostSettings(id="cpu-0", base=BASE, bundle_root="", page_dir=""), "x", 1.0)
    first.add_run(command="c", base="b", machine=MACHINE, started_at_s=1.0)
    steps = (make_step("b", 1),)
    first.commit_bundle(BundleReport(job="b", epoch=0, step=1, bundle_uri="bundles/b", sha256="s", steps=steps), 1.0)
    first.pause(["b"], 1.0)
    yield first, second
    first.close()
    second.close()


Services = tuple[ControlDatabase, ControlDatabase]


def never(_seconds: float) -> None:
    raise AssertionError("nothing to wait for")


def contents(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    engine = open_engine(url)
    with Session(engine) as session:
        found = {t.name: [tuple(row) for row in session.execute(select(t))] for t in Table.metadata.sorted_tables}
    engine.dispose()
    return found


def test_a_service_at_work_keeps_its_database(services: Services) -> None:
    first, second = services
    assert first.take_lease(FIRST, sleep=never) == 1
    with pytest.raises(DatabaseError, match=f"'{FIRST}' is at work on it") as raised:
        second.take_lease(SECOND, sleep=lambda _: first.beat())
    assert not isinstance(raised.value, LeaseLost)
    first.add_event(Event(at_s=1.0, kind="still here"))


def test_a_beat_at_the_last_look_is_enough(services: Services) -> None:
    first, second = services
    first.take_lease(FIRST)
    looks = iter(range(1000))

    def sleep(_: float) -> None:
        if next(looks) == lease.NUM_LOOKS - 1:
            first.beat()

    with pytest.raises(DatabaseError, match="at work"):
        second.take_lease(SECOND, sleep=sleep)


def test_a_service_that_stands_still_is_taken_over_after_the_patience(services: Services) -> None:
    first, second = services
    first.take_lease(FIRST)
    first.beat()
    waits: list[float] = []
    assert second.take_lease(SECOND, patience_s=8.0, sleep=waits.append) == 2
    assert sum(waits) == pytest.approx(8.0)
    second.beat()
    with pytest.raises(LeaseLost, match=f"'{SECOND}' has taken over"):
        first.beat()


def test_two_cannot_take_over_the_same_one(services: Services, database_url: str) -> None:
    first, second = services
    third = ControlDatabase(database_url)
    first.take_lease(FIRST)
    looks = iter(range(1000))

    def sleep(_: float) -> None:
        """While the second waits for the last time, the third is through."""
        if next(looks) == lease.NUM_LOOKS - 1:
            third.take_lease("third", sleep=lambda _: None)

    with pytest.raises(DatabaseError, match="at work"):
        second.take_lease(SECOND, sleep=sleep)
    third.beat()
    third.close()


def test_the_same_holder_and_a_free_lease_do_not_wait(services: Services) -> None:
    first, second = services
    assert first.take_lease(FIRST, sleep=never) == 1
    assert second.take_lease(FIRST, sleep=never) == 2  # placement after a restart
    with pytest.raises(LeaseLost):
        first.add_event(Event(at_s=1.0, kind="x"))
    second.release_lease()
    assert first.take_lease(SECOND, sleep=never) == 4
    first.beat()
    with pytest.raises(LeaseLost):
        second.beat()


def test_what_gave_its_lease_back_writes_nothing(services: Services) -> None:
    first, second = services
    first.take_lease(FIRST)
    first.release_lease()
    with pytest.raises(LeaseLost, match="it was given back"):
        first.add_event(Event(at_s=1.0, kind="x"))
    second.take_lease(SECOND, sleep=never)
    first.release_lease()  # it is no longer its own to give
    second.beat()


def test_who_was_refused_still_holds_what_it_held(services: Services) -> None:
    """A failed attempt must not free the writes of a service that has lost its lease."""
    first, second = services
    first.take_lease(FIRST)
    second.take_lease(SECOND, sleep=lambda _: None)
    with pytest.raises(DatabaseError, match="at work"):
        first.take_lease(FIRST, sleep=lambda _: second.beat())
    with pytest.raises(LeaseLost):
        first.add_event(Event(at_s=1.0, kind="x"))


def test_a_beat_needs_a_lease(services: Services) -> None:
    with pytest.raises(LeaseLost, match="no lease was taken"):
        services[0].beat()


def test_every_method_is_known_to_this_test() -> None:
    public = {name for name in vars(ControlDatabase) if not name.startswith("_")}
    assert public - READS - OTHERS == set(WRITES)


@pytest.mark.parametrize("name", sorted(WRITES))
def test_each_write_changes_something_while_the_lease_is_held(services: Services, database_url: str, name: str) -> None:
    """Else the next test would prove nothing."""
    first, _ = services
    first.take_lease(FIRST)
    before = contents(database_url)
    WRITES[name](first)
    assert contents(database_url) != before


def test_a_placement_that_comes_back_after_a_take_over_writes_nothing(services: Services, database_url: str) -> None:
    first, second = services
    first.take_lease(FIRST)
    second.take_lease(SECOND, sleep=lambda _: None)
    before = contents(database_url)
    for name, write in WRITES.items():
        with pytest.raises(LeaseLost, match="nothing was written"):
            pytest.fail(f"{name} answered {write(first)!r}")
    first.release_lease()
    assert contents(database_url) == before
    assert len(first.jobs()) == 2, "it may still read"
    assert second.commit_bundle(REPORT, 2.0) is Commit.COMMITTED


def test_clocks_play_no_part(services: Services) -> None:
    """The first machine's clock is a year behind, the second's a year ahead: only the beat decides."""
    first, second = services
    first.take_lease(FIRST)
    year_s = 365 * 86400.0

    def work(_: float) -> None:
        first.add_event(Event(at_s=-year_s, kind="work"))
        first.beat()

    with pytest.raises(DatabaseError, match="at work"):
        second.take_lease(SECOND, sleep=work)
    first.add_event(Event(at_s=3 * year_s, kind="its last word, from the future"))
    assert second.take_lease(SECOND, sleep=lambda _: None) == 2
    assert set(LeaseRow.__table__.columns.keys()) == {"id", "holder", "generation", "beat"}


SERVICE = """
import sys
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.errors import LeaseLost
database = ControlDatabase(sys.argv[1])
database.take_lease("the process")
print("ready", flush=True)
for _ in sys.stdin:
    try:
        database.beat()
        print("beat", flush=True)
    except LeaseLost:
        print("lost", flush=True)
"""


def test_a_stopped_process_is_taken_over_and_learns_of_it(database_url: str) -> None:
    command = [sys.executable, "-c", SERVICE, database_url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answers = process.stdin, process.stdout

    def ask() -> str:
        asked.write("beat\n")
        asked.flush()
        return answers.readline().strip()

    here = ControlDatabase(database_url)
    try:
        assert answers.readline().strip() == "ready"
        with pytest.raises(DatabaseError, match="'the process' is at work"):
            here.take_lease("here", sleep=lambda _: ask())  # type: ignore[arg-type, return-value]
        os.kill(process.pid, signal.SIGSTOP)
        assert here.take_lease("here", patience_s=0.2) == 2
        os.kill(process.pid, signal.SIGCONT)
        assert ask() == "lost"
    finally:
        here.close()
        process.kill()
        process.communicate(timeout=30)


def test_a_service_stopped_within_a_transaction_holds_nobody_up(postgres: PostgresServer) -> None:
    """PostgreSQL ends a transaction that does nothing; what it had written is not there."""
    url = postgres.new_database()
    short = f"{url}?options=-c%20idle_in_transaction_session_timeout%3D1s"
    first, second = ControlDatabase(short), ControlDatabase(url)
    generation = first.take_lease(FIRST)
    engine = open_engine(short)
    with Session(engine) as session:
        lease.check(session, generation)
        lease.beat(session)
        assert second.take_lease(SECOND, patience_s=0.1) == 2
        with pytest.raises(DBAPIError, match="terminating connection"):
            session.execute(select(LeaseRow))
    engine.dispose()
    second.beat()
    first.close()
    second.close()


def test_nobody_takes_over_in_the_middle_of_a_write(postgres: PostgresServer) -> None:
    """The write has checked its lease: it ends first, or is undone."""
    url = postgres.new_database()
    first, second = ControlDatabase(url), ControlDatabase(f"{url}?options=-c%20lock_timeout%3D300ms")
    generation = first.take_lease(FIRST)
    engine = open_engine(url)
    with Session(engine) as session, session.begin():
        lease.check(session, generation)
        with pytest.raises(DatabaseError, match="lock timeout"):
            second.take_lease(SECOND, patience_s=0.0)
    assert second.take_lease(SECOND, patience_s=0.0) == 2
    engine.dispose()
    first.close()
    second.close()
