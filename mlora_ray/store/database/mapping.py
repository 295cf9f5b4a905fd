"""Between rows of the tables and the facts of `types` and `records`."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, cast

from sqlalchemy import CursorResult, Update
from sqlalchemy.orm import Session

from mlora_ray.store.database.tables import EventRow, HostRow, JobRow, StepRow
from mlora_ray.types import HostSettings, JobSpec, JobState, StepReport, serialization
from mlora_ray.types.records import Event, HostRecord, JobRecord

FINAL_STATES = tuple(s.value for s in JobState if s.is_final)
_STEP_FIELDS = tuple(f.name for f in fields(StepReport))


def num_changed(session: Session, statement: Update) -> int:
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def job_record(row: JobRow) -> JobRecord:
    return JobRecord(
        spec=serialization.loads(JobSpec, row.spec),
        state=JobState(row.state),
        epoch=row.epoch,
        host=row.host,
        step=row.step,
        bundle_uri=row.bundle_uri,
        weights_sha256=row.weights_sha256,
        error=row.error,
        num_tokens=row.num_tokens,
        submitted_at_s=row.submitted_at_s,
        numerics=row.numerics,
    )


def host_record(row: HostRow) -> HostRecord:
    same = {f.name: getattr(row, f.name) for f in fields(HostRecord) if f.name != "settings"}
    return HostRecord(settings=serialization.loads(HostSettings, row.settings), **same)


def step_values(step: StepReport, epoch: int) -> dict[str, object]:
    """A row of `steps`."""
    return {"epoch": epoch, **{name: getattr(step, name) for name in _STEP_FIELDS}}


def step_report(row: StepRow) -> StepReport:
    return StepReport(**{f.name: getattr(row, f.name) for f in fields(StepReport)})


def event_row(entry: Event) -> EventRow:
    return EventRow(**{k: v for k, v in asdict(entry).items() if k != "id"})


def event(row: EventRow) -> Event:
    return Event(**{f.name: getattr(row, f.name) for f in fields(Event)})
