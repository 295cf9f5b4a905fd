"""From a URL to SQLAlchemy's engine: which databases there are, how their connections are set up."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mlora_ray.errors import DatabaseError
from mlora_ray.types.database_url import ALLOWED, DRIVERS, shown

BUSY_TIMEOUT_S = 30.0
# A server that does not answer must not hold up the one thread that places. A service that was stopped in the
# middle of a transaction must lose its locks before another has waited in vain: else nobody could take over.
_POSTGRES_OPTIONS = "-c statement_timeout=30s -c lock_timeout=20s -c idle_in_transaction_session_timeout=10s"
_POSTGRES_ARGUMENTS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "mlora-ray",
    "options": _POSTGRES_OPTIONS,
}


def open_engine(url: str) -> Engine:
    """SQLAlchemy's engine for `url`; nothing is connected yet. Raises DatabaseError."""
    parsed = _parse(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            engine = create_engine(parsed)
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        given = {k: v for k, v in _POSTGRES_ARGUMENTS.items() if k not in parsed.query}
        # Pre-ping: after the server was away, the next transaction gets a new connection by itself.
        return create_engine(parsed, connect_args=given, pool_pre_ping=True)
    except ImportError as error:
        needs = f"{error}: install it with pip install 'mlora-ray[postgres]'"
        raise DatabaseError(f"control database {shown(url)}: {needs}") from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"control database {shown(url)}: {said(error)}") from error


def said(error: SQLAlchemyError) -> str:
    """The driver's own words, without the statement and the link to SQLAlchemy's manual."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(f"control database {shown(url)}: not a URL; allowed: {ALLOWED}") from error
    if parsed.drivername not in DRIVERS:
        raise DatabaseError(f"control database {shown(url)}: {parsed.drivername!r} is not known; allowed: {ALLOWED}")
    if "@" in (parsed.host or ""):
        raise DatabaseError(f"control database {shown(url)}: write an @ in the password as %40")
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say so, see _begin_sqlite
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
    _set_wal(cursor)
    # FULL: a commit is on the disk when it returns, so a bundle never outlives its row on power loss.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _set_wal(cursor: sqlite3.Cursor) -> None:
    """Where another process sets it at the same moment, SQLite says busy without waiting."""
    ends_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > ends_s:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: one that has read first would be refused without waiting."""
    is_writing = connection.get_execution_options().get("is_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")
