"""Opening a control database: created, brought up to date, refused; by many at once; fast."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from mlora_ray.errors import BaseDiffers, DatabaseError
from mlora_ray.store.database.connections import open_engine
from mlora_ray.store.database.control_database import ControlDatabase, schema
from mlora_ray.store.database.tables import Table
from mlora_ray.types import BundleReport, JobState
from mlora_ray.types.records import Commit, Machine
from tests.conftest import make_spec, make_step
from tests.store.database.opening import open_each

VERSION_1 = Path(__file__).with_name("version_1.sql")
MAX_OPEN_S = 0.1
NUM_PROCESSES, NUM_RACES = 4, 3


def execute(url: str, *statements: str) -> None:
    engine = open_engine(url)
    with engine.execution_options(is_writing=True).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def with_engine(url: str, ask: Callable[[Engine], object]) -> object:
    engine = open_engine(url)
    try:
        return ask(engine)
    finally:
        engine.dispose()


def revision(url: str) -> object:
    def ask(engine: Engine) -> str:
        with engine.connect() as connection:
            return schema.read_revision(connection)

    return with_engine(url, ask)


def make_version_1(url: str) -> None:
    """The tables and rows of version_1.sql, as the program of that time left them: nothing of Alembic's."""
    if url.startswith("sqlite:///"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.executescript(VERSION_1.read_text())
        connection.close()
        return
    # PostgreSQL's own types: the tables of revision 1 are the same by test_the_first_revision_is_version_1.
    upgrade_to(url, "0001")
    rows = [line for line in VERSION_1.read_text().splitlines() if line.startswith("INSERT INTO")]
    order = ("runs", "run_facts", "jobs", "steps", "bundles", "events")
    rows = [r for table in order for r in rows if r.startswith(f'INSERT INTO "{table}"')]
    bundles = [r.replace(",0,1);", ",false,true);") if '"bundles"' in r else r for r in rows]
    ids = [f"SELECT setval('{table}_id_seq', 2)" for table in ("runs", "events")]  # as if it had counted itself
    execute(url, *(r.replace(":", "\\:") for r in bundles), *ids, "DROP TABLE alembic_version")


def upgrade_to(url: str, target: str) -> None:
    def run(engine: Engine) -> None:
        with engine.execution_options(is_writing=True).begin() as connection:
            command.upgrade(schema.alembic_config(connection), target)

    with_engine(url, run)


def test_an_empty_database_is_created(database_url: str) -> None:
    ControlDatabase(database_url).close()
    assert revision(database_url) == schema.HEAD
    again = ControlDatabase(database_url)
    assert again.jobs() == []
    again.close()


def test_revisions_are_those_of_the_migrations(tmp_path: Path) -> None:
    def ask(engine: Engine) -> list[str]:
        with engine.connect() as connection:
            script = ScriptDirectory.from_config(schema.alembic_config(connection))
            return [r.revision for r in script.walk_revisions()]

    assert with_engine(f"sqlite:///{tmp_path}/x.db", ask) == list(reversed(schema.REVISIONS))


def test_models_and_migrations_agree(database_url: str) -> None:
    ControlDatabase(database_url).close()

    def ask(engine: Engine) -> list[object]:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            return list(compare_metadata(context, Table.metadata))

    assert with_engine(database_url, ask) == []
    execute(database_url, "ALTER TABLE hosts DROP COLUMN why")
    assert len(with_engine(database_url, ask)) == 1, "the comparison sees what differs"  # type: ignore[arg-type]


def test_the_first_revision_is_version_1(tmp_path: Path) -> None:
    old, new = (f"{tmp_path}/{name}.db" for name in ("old", "new"))
    make_version_1(f"sqlite:///{old}")
    upgrade_to(f"sqlite:///{new}", "0001")

    def columns(path: str) -> dict[str, object]:
        connection = sqlite3.connect(path)
        tables = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found: dict[str, object] = {t: connection.execute(f"PRAGMA table_info({t})").fetchall() for t in tables}
        found |= {f"{t} keys": connection.execute(f"PRAGMA foreign_key_list({t})").fetchall() for t in tables}
        indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
        found["indexes"] = connection.execute(indexes).fetchall()
        connection.close()
        return {k: v for k, v in found.items() if not k.startswith("alembic_version")}

    assert columns(old) == columns(new)


def test_version_1_is_upgraded_with_all_that_it_holds(database_url: str) -> None:
    make_version_1(database_url)
    assert revision(database_url) == "0001"
    database = ControlDatabase(database_url)
    assert revision(database_url) == schema.HEAD
    a, b = database.jobs()
    assert (a.spec, b.spec) == (make_spec("a"), make_spec("b"))
    assert (a.state, a.epoch, a.step, a.num_tokens, a.numerics) == (JobState.PAUSED, 1, 3, 24, "")
    assert (b.state, b.epoch, b.step) == (JobState.QUEUED, 0, 0)
    assert database.steps("a") == [(make_step("a", i), 1) for i in (1, 2, 3)]
    assert database.kept_bundles("a") == [(3, "bundles/a/3")]
    assert [(e.id, e.kind, e.job) for e in database.events()] == [(1, "placed", "a"), (2, "saved", "a")]
    facts = (("versions.torch", "2.13.0"), ("native_kernels", "True"))
    assert database.machine() == Machine("cpu", 2, facts)
    with pytest.raises(BaseDiffers, match=f"earlier run .* had {'f' * 64}"):
        database.bind_base("tiny-llama:float32", "other", "cpu-1", "node")
    steps = tuple(make_step("a", i) for i in range(4, 7))
    report = BundleReport(job="a", epoch=1, step=6, bundle_uri="bundles/a/6", sha256="s", steps=steps)
    assert database.commit_bundle(report, 9.0) is Commit.COMMITTED
    assert database.take_lease("here") == 1
    database.close()


def test_a_program_from_before_the_migrations_refuses_what_is_here(tmp_path: Path) -> None:
    """It reads `schema_version`, and refuses what is above 1."""
    ControlDatabase(f"sqlite:///{tmp_path}/control.db").close()
    connection = sqlite3.connect(tmp_path / "control.db")
    assert connection.execute("SELECT version FROM schema_version").fetchall() == [(2,)]
    connection.close()


def test_a_newer_database_is_refused(database_url: str) -> None:
    ControlDatabase(database_url).close()
    execute(database_url, "UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(DatabaseError, match=f"revision 0099, this program knows up to {schema.HEAD}: use a newer"):
        ControlDatabase(database_url)
    assert revision(database_url) == "0099"


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/control.db"
    make_version_1(url)
    execute(url, "CREATE TABLE numerics (id INTEGER)")  # in the way of the last of the new tables but one
    with pytest.raises(DatabaseError, match="numerics already exists"):
        ControlDatabase(url)
    execute(url, "DROP TABLE numerics")
    database = ControlDatabase(url)
    assert database.jobs()[0].step == 3
    database.close()


def test_processes_that_open_an_empty_database_at_once_all_succeed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = [f"sqlite:///{tmp_path}/race-{i}.db" for i in range(NUM_RACES)]
    postgres = None if _is_missing() else request.getfixturevalue("postgres")
    urls += [postgres.new_database() for _ in range(NUM_RACES)] if postgres else []
    spawning = multiprocessing.get_context("spawn")
    barrier = spawning.Barrier(NUM_PROCESSES)
    processes = [spawning.Process(target=open_each, args=(urls, barrier)) for _ in range(NUM_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [p.exitcode for p in processes] == [0] * NUM_PROCESSES
    for url in urls:
        database = ControlDatabase(url)
        assert [e.kind for e in database.events()] == ["opened"] * NUM_PROCESSES
        database.close()


def _is_missing() -> bool:
    from tests.postgres import NotInstalled, find_programs

    try:
        find_programs()
    except NotInstalled:
        return True
    return False


def test_opening_what_is_up_to_date_is_fast_and_needs_no_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/control.db"
    ControlDatabase(url).close()
    spent = []
    for _ in range(5):
        before = time.perf_counter()
        database = ControlDatabase(url)
        spent.append(time.perf_counter() - before)
        database.close()
    assert min(spent) < MAX_OPEN_S
    code = f"""
import sys
from mlora_ray.store.database.control_database import ControlDatabase
ControlDatabase({url!r}).jobs()
print(sorted({{"alembic", "psycopg"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_path_with_a_percent_sign(tmp_path: Path) -> None:
    """Alembic's settings would read it as a variable."""
    folder = tmp_path / "100%s done"
    folder.mkdir()
    database = ControlDatabase(f"sqlite:///{folder}/control.db")
    database.close()
    assert (folder / "control.db").exists()
