"""URLs that do not work, and servers that go away: said in plain words, never with the password."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from mlora_ray.errors import DatabaseError
from mlora_ray.store.database.connections import open_engine
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import JobState
from mlora_ray.types.database_url import shown
from mlora_ray.types.records import Commit
from tests.conftest import make_spec
from tests.postgres import PASSWORD, SECRETIVE, PostgresServer
from tests.store.database.test_control_database import bundle

SECRET = "hunter-2"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("control.db", "not a URL; allowed: sqlite:///PATH or postgresql"),
        ("", "not a URL"),
        (f"postgresql+psycopg://me:{SECRET}@host:port/jobs", "not a URL"),
        (f"mysql://me:{SECRET}@host/jobs", "'mysql' is not known; allowed: sqlite:///PATH or postgresql"),
        (f"postgres://me:{SECRET}@host/jobs", "'postgres' is not known"),
        (f"postgresql+psycopg2://me:{SECRET}@host/jobs", "'postgresql\\+psycopg2' is not known"),
        (f"postgresql+psycopg://me:a@{SECRET}@host/jobs", "write an @ in the password as %40"),
        (f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/jobs", "127.0.0.1.*refused"),
        (f"postgresql+psycopg://127.0.0.1:1/jobs?user=me&password={SECRET}", "127.0.0.1.*refused"),
        ("sqlite:////nowhere/at/all/control.db", "unable to open database file"),
    ],
)
def test_a_url_that_does_not_work(url: str, said: str) -> None:
    with pytest.raises(DatabaseError, match=said) as raised:
        ControlDatabase(url)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("postgresql+psycopg://me@host/jobs", "postgresql+psycopg://me@host/jobs"),
        ("postgresql+psycopg://me:secret@host:1/jobs", "postgresql+psycopg://me:***@host:1/jobs"),
        ("postgresql+psycopg://me:se:cr@e/t@host/jobs", "postgresql+psycopg://me:***@host/jobs"),
        ("postgresql://h/d?password=secret&x=1", "postgresql://h/d?password=***&x=1"),
        ("postgresql://h/d?x=1&sslpassword=secret", "postgresql://h/d?x=1&sslpassword=***"),
    ],
)
def test_passwords_are_hidden(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_text("not a database at all, but long enough to be read as one\n" * 40)
    with pytest.raises(DatabaseError, match="not a database"):
        ControlDatabase(f"sqlite:///{tmp_path}/control.db")


def test_without_the_driver_it_says_what_to_install() -> None:
    code = f"""
import sys
sys.modules["psycopg"] = None  # as if it were not installed
from mlora_ray.store.database.control_database import ControlDatabase
ControlDatabase("postgresql+psycopg://me:{SECRET}@127.0.0.1/jobs")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "install it with pip install 'mlora-ray[postgres]'" in done.stderr.splitlines()[-1]
    assert SECRET not in done.stderr.replace(code, "")


def test_a_database_that_is_not_there(postgres: PostgresServer) -> None:
    with pytest.raises(DatabaseError, match='database "nowhere" does not exist'):
        ControlDatabase(postgres.url("nowhere"))


def test_a_wrong_password_and_a_right_one(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    name = url.rsplit("/", 1)[1]
    postgres.execute(f"GRANT ALL ON SCHEMA public TO {SECRETIVE}", name)
    with pytest.raises(DatabaseError, match="password authentication failed") as raised:
        ControlDatabase(postgres.url(name, f"{SECRETIVE}:{SECRET}"))
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    database = ControlDatabase(postgres.url(name, f"{SECRETIVE}:{PASSWORD}"))
    assert database.jobs() == []
    database.close()


def test_a_user_who_may_not_make_tables(postgres: PostgresServer) -> None:
    name = postgres.new_database().rsplit("/", 1)[1]
    with pytest.raises(DatabaseError, match="permission denied"):
        ControlDatabase(postgres.url(name, f"{SECRETIVE}:{PASSWORD}"))


def test_a_connection_that_is_cut_costs_at_most_one_write(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    database = ControlDatabase(url)
    database.add_jobs([make_spec("a")], 1.0)
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.rsplit('/', 1)[1]}'"
    )
    assert database.commit_bundle(bundle("a", 0, 1, 3), 2.0) is Commit.COMMITTED
    database.close()


def test_a_server_that_goes_away_and_comes_back() -> None:
    server = PostgresServer.start()
    try:
        name = server.new_database().rsplit("/", 1)[1]
        server.execute(f"GRANT ALL ON SCHEMA public TO {SECRETIVE}", name)
        database = ControlDatabase(server.url(name, f"{SECRETIVE}:{PASSWORD}"))
        database.add_jobs([make_spec("a")], 1.0)
        generation = database.take_lease("here")
        database.commit_bundle(bundle("a", 0, 1, 3), 2.0)
        server.stop()
        for use in (database.beat, database.jobs, lambda: database.commit_bundle(bundle("a", 0, 4, 6), 3.0)):
            with pytest.raises(DatabaseError, match=r"control database postgresql.*connection") as raised:
                use()
            assert PASSWORD not in "".join(traceback.format_exception(raised.value))
        server.start_again()
        database.beat()
        assert database.commit_bundle(bundle("a", 0, 4, 6), 3.0) is Commit.COMMITTED
        job = database.jobs()[0]
        assert (job.step, job.state, generation) == (6, JobState.QUEUED, 1)
        database.close()
    finally:
        server.close()


def test_limits_of_a_connection_can_be_given_in_the_url(postgres: PostgresServer) -> None:
    engine = open_engine(f"{postgres.new_database()}?connect_timeout=3&application_name=mine")
    with engine.connect() as connection:
        shown_name = connection.exec_driver_sql("SHOW application_name").scalar_one()
        timeout = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one()
    engine.dispose()
    assert (shown_name, timeout) == ("mine", "10s")
