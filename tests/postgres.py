"""A PostgreSQL server of the tests' own: started in a temporary folder on a free loopback port, gone with the test run.

    server = PostgresServer.start()      # raises NotInstalled, which says what is missing
    url = server.new_database()
    server.stop()

Debian keeps its programs in /usr/lib/postgresql/*/bin. They refuse to run as root: then as `postgres` or `nobody`.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 60.0
NUM_PORTS = 5  # another process may take a free port before the server does
SUPERUSER = "tester"
SECRETIVE, PASSWORD = "secretive", "correct-horse"  # the one user who needs a password
_SETTINGS = ("fsync=off", "full_page_writes=off", "unix_socket_directories=", "listen_addresses=127.0.0.1")
_PR_SET_PDEATHSIG = 1


class NotInstalled(Exception):
    """Says what is missing: a reason to skip."""


class PostgresServer:
    """One server. `stop` and `start_again` let tests see it go away."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @classmethod
    def start(cls) -> PostgresServer:
        programs = find_programs()
        folder = Path(tempfile.mkdtemp(prefix="mlora-postgres-"))
        server = cls(programs, folder)
        try:
            if user := _run_as():
                os.chown(folder, user["user"], user["group"])
            server._make_cluster()
            server.start_again()
            password = f"CREATE ROLE {SECRETIVE} LOGIN PASSWORD '{PASSWORD}'"
            server.execute(password)
        except BaseException:
            server.close()
            raise
        return server

    def url(self, database: str, user: str = SUPERUSER) -> str:
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def new_schema(self) -> str:
        """The URL of a new user with a schema of its own in one shared database: as empty, and made much faster."""
        name = f"user_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE ROLE {name} LOGIN; CREATE SCHEMA AUTHORIZATION {name}")
        return self.url("postgres", name)

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        import psycopg

        with psycopg.connect(self._dsn(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start_again(self) -> None:
        """On the port of before where there was one. Raises RuntimeError with the server's last words."""
        for _ in range(NUM_PORTS):
            port = self.port or _free_port()
            if self._starts(port):
                self.port = port
                return
        raise RuntimeError(f"postgres does not start: {(self._folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """At once, as a machine that loses power; its files stay."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=START_TIMEOUT_S)
            self._process = None

    def close(self) -> None:
        """Stop, and remove its files."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_cluster(self) -> None:
        data = self._folder / "data"
        command = [self._programs / "initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "-N", "-E", "UTF8"]
        done = subprocess.run(
            [*map(str, command), "--locale=C"], capture_output=True, text=True, timeout=120, cwd="/", **_run_as()
        )
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stderr}")
        access = data / "pg_hba.conf"
        access.write_text(f"host all {SECRETIVE} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")

    def _starts(self, port: int) -> bool:
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), "-p", str(port)]
        for setting in _SETTINGS:
            command += ["-c", setting]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", preexec_fn=_end_with_us, **_run_as()
            )
        ends_s = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < ends_s:
            if self._answers(port):
                return True
            time.sleep(0.05)
        self.stop()
        return False

    def _answers(self, port: int) -> bool:
        import psycopg

        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user={SUPERUSER} dbname=postgres connect_timeout=5").close()
        except psycopg.OperationalError:
            return False
        return True

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user={SUPERUSER} dbname={database} connect_timeout=10"


def find_programs() -> Path:
    """The folder of initdb and postgres, the newest first. Raises NotInstalled."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise NotInstalled(f"PostgreSQL's driver is not installed: {error}") from error
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NotInstalled("PostgreSQL is not installed: no initdb in /usr/lib/postgresql/*/bin or on PATH")


def _run_as() -> dict[str, Any]:
    """Whom subprocess runs the server as: itself, unless it is root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise NotInstalled("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_us() -> None:
    """A test run that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
