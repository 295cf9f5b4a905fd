"""Transactions of the control database: errors in plain words, and no write without the lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from mlora_ray.errors import DatabaseError
from mlora_ray.store.database import lease
from mlora_ray.store.database.connections import said
from mlora_ray.types.database_url import shown


class Transactions:
    """Each commits at the end and rolls back on an error. All raise DatabaseError."""

    def __init__(self, engine: Engine, url: str) -> None:
        self._readers, self._writers = engine, engine.execution_options(is_writing=True)
        self._url = url
        self.generation: int | None = None  # of the lease that is held; None: none was taken, and writes are free
        self.is_in_doubt = False  # a write has raised, and may have been done all the same

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._session(self._readers) as session:
            yield session

    @contextmanager
    def writing(self, *, is_checked: bool = True) -> Iterator[Session]:
        """Raises LeaseLost, before anything is written, when another service has taken over; unless told not to."""
        with self._session(self._writers) as session:
            if is_checked and self.generation is not None:
                lease.check(session, self.generation)
            yield session

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            self.is_in_doubt = self.is_in_doubt or engine is self._writers
            raise DatabaseError(f"control database {shown(self._url)}: {said(error)}") from error
