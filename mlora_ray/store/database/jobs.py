"""Rows of jobs: who owns them and in which state they are. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, insert, or_, select, update
from sqlalchemy.orm import Session

from mlora_ray.errors import DatabaseError
from mlora_ray.store.database.mapping import FINAL_STATES
from mlora_ray.store.database.tables import EventRow, JobRow
from mlora_ray.types import JobSpec, JobState, serialization
from mlora_ray.types.job_identity import spec_sha256
from mlora_ray.types.records import Reassignment

NAMES_AT_ONCE = 500  # in one query: SQLite has had a limit of 999 values


def add(session: Session, specs: Sequence[JobSpec], submitted_at_s: float) -> None:
    taken = set(session.scalars(select(JobRow.name)))
    first = len(taken)
    if twice := taken & {s.name for s in specs}:
        raise DatabaseError(f"jobs of these names exist: {', '.join(sorted(twice))}")
    session.add_all(
        JobRow(
            name=spec.name,
            place_in_file=first + i,
            spec=serialization.dumps(spec),
            spec_sha256=spec_sha256(spec),
            state=JobState.QUEUED.value,
            submitted_at_s=submitted_at_s,
        )
        for i, spec in enumerate(specs)
    )


def refresh_specs(session: Session, specs: Iterable[JobSpec]) -> None:
    for spec in specs:
        session.execute(update(JobRow).where(JobRow.name == spec.name).values(spec=serialization.dumps(spec)))


def owned(name: str, epoch: int) -> tuple[ColumnElement[bool], ...]:
    """The job is not at an end and `epoch` is its owner's."""
    return JobRow.name == name, JobRow.epoch == epoch, JobRow.state.not_in(FINAL_STATES)


def change_hands(session: Session, changes: Iterable[Reassignment], at_s: float, kind: str) -> list[str]:
    """In order. Read once and written once: a lost host's jobs, or thousands of new ones, change hands together."""
    changes = list(changes)
    epochs = {name: epoch for name, (epoch, _) in open_steps(session, [c.job for c in changes]).items()}
    changed: list[str] = []
    rows, events = [], []
    for name, epoch, state, host in changes:
        if epochs.get(name) == epoch:
            epochs[name] = epoch + 1
            changed.append(name)
            rows.append({"of": name, "epoch": epoch + 1, "state": state.value, "host": host})
            events.append({"at_s": at_s, "kind": kind, "job": name, "host": host, "epoch": epoch + 1, "detail": ""})
    if rows:
        connection = session.connection()
        connection.execute(update(JobRow).where(JobRow.name == bindparam("of")), rows)
        connection.execute(insert(EventRow), events)
    return changed


def open_steps(session: Session, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(epoch, step) of those that are not at an end, locked until the transaction ends."""
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(names), NAMES_AT_ONCE):
        some = JobRow.name.in_(names[start : start + NAMES_AT_ONCE])
        query = (
            select(JobRow.name, JobRow.epoch, JobRow.step)
            .where(some, JobRow.state.not_in(FINAL_STATES))
            .with_for_update()
        )
        found.update((row.name, (row.epoch, row.step)) for row in session.execute(query))
    return found


def start(session: Session, names: Iterable[tuple[str, int]], numerics: str) -> None:
    rows = [{"of": name, "under": epoch} for name, epoch in names]
    if not rows:
        return
    is_open = [JobRow.state != state for state in FINAL_STATES]  # lists of values do not go with many rows at once
    mine = update(JobRow).where(JobRow.name == bindparam("of"), JobRow.epoch == bindparam("under"), *is_open)
    waiting = or_(JobRow.state == JobState.PLACED.value, JobRow.state == JobState.MIGRATING.value)
    session.connection().execute(mine.where(waiting).values(state=JobState.TRAINING.value), rows)
    session.connection().execute(mine.where(JobRow.numerics == "").values(numerics=numerics), rows)


def command(session: Session, names: Collection[str], to: JobState, at_s: float) -> list[str]:
    """A user's word: QUEUED, PAUSED or CANCELLED, whoever owns the job; its owner is fenced off."""
    query = select(JobRow.name, JobRow.epoch, JobRow.state).where(JobRow.name.in_(names)).with_for_update()
    rows = session.execute(query)
    changed = [(n, epoch) for n, epoch, state in rows.all() if _can_become(JobState(state), to)]
    values: dict[str, Any] = {"state": to.value, "host": ""}
    if to is JobState.QUEUED:
        values["error"] = ""
    for name, epoch in changed:
        mine = update(JobRow).where(JobRow.name == name, JobRow.epoch == epoch)
        session.execute(mine.values(epoch=epoch + 1, **values))
        session.add(EventRow(at_s=at_s, kind=to.value.lower(), job=name, epoch=epoch + 1))
    order = list(names)
    return sorted((name for name, _ in changed), key=order.index)


def _can_become(state: JobState, to: JobState) -> bool:
    if to is JobState.QUEUED:
        return state in (JobState.PAUSED, JobState.FAILED)
    return not state.is_final and state is not to
