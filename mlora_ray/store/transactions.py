"""One transaction of the control database, and how its connections are set up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from mlora_ray.store.records import DatabaseError


class Transaction:
    """A session in a transaction: commits at the end, rolls back on an error, translates database errors."""

    def __init__(self, engine: Engine, url: str) -> None:
        self._session = Session(engine, expire_on_commit=False)
        self._url = url

    def __enter__(self) -> Session:
        return self._session

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._session.commit()
            else:
                self._session.rollback()
        except SQLAlchemyError as failed:
            error = failed
        finally:
            self._session.close()
        if isinstance(error, SQLAlchemyError):
            raise DatabaseError(f"control database {self._url}: {said(error)}") from error


def open_engine(url: str) -> Engine:
    """SQLAlchemy's engine for `url`; a SQLite file is set to survive a loss of power."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            # FULL: a commit is on the disk when it returns, so a bundle never outlives its row on power loss.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine


def said(error: SQLAlchemyError) -> str:
    """The driver's own words, without the statement and the link to SQLAlchemy's manual."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
