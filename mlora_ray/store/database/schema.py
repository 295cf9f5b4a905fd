"""The tables' revision: an empty or older database is brought up to date, a newer one is refused.

Alembic is imported only where there is something to do; opening a database that is up to date reads one row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from mlora_ray.errors import DatabaseError, DatabaseRefused
from mlora_ray.store.database.connections import said
from mlora_ray.types.database_url import shown

if TYPE_CHECKING:
    from alembic.config import Config

REVISIONS = ("0001", "0002")  # of migrations/versions, oldest first
HEAD = REVISIONS[-1]
_EMPTY = ""
_LOCK = 0x6D6C6F7261  # PostgreSQL's advisory lock while tables change: any number that is always the same


def bring_up_to_date(engine: Engine, url: str) -> None:
    """Create or upgrade the tables. Processes that do so at once wait for the first. Raises DatabaseError."""
    try:
        with engine.connect() as connection:
            if read_revision(connection) == HEAD:
                return
        with engine.execution_options(is_writing=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            _upgrade(connection, url)
    except SQLAlchemyError as error:
        raise DatabaseError(f"control database {shown(url)}: {said(error)}") from error


def read_revision(connection: Connection) -> str:
    """The revision that the tables have; empty where there are none."""
    tables = inspect(connection)
    if tables.has_table("alembic_version"):
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or _EMPTY)
    if not tables.has_table("schema_version"):
        return _EMPTY
    # Made before there were migrations: such a program wrote 1, or was killed before it did.
    version = connection.execute(text("SELECT version FROM schema_version")).scalar_one_or_none() or 1
    return f"{version:04d}"


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for our migrations over an open connection."""
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection, url: str) -> None:
    found = read_revision(connection)
    if found == HEAD:
        return  # another process did it meanwhile
    if found not in (_EMPTY, *REVISIONS):
        raise DatabaseRefused(
            f"control database {shown(url)} is from a newer version: its tables have revision {found}, "
            f"this program knows up to {HEAD}: use a newer mlora-ray"
        )
    from alembic import command

    config = alembic_config(connection)
    if found != _EMPTY and not inspect(connection).has_table("alembic_version"):
        command.stamp(config, found)
    command.upgrade(config, "head")
