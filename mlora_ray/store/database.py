"""The control database: the truth about jobs, their owners and their committed steps.

SQLite (WAL) on one machine, PostgreSQL where the placement actor may move. Every write that belongs to an
owner names the owner's epoch; when another has taken over it matches no row and nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from sqlalchemy import CursorResult, Update, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from mlora_ray import serde
from mlora_ray.errors import MloraError
from mlora_ray.store.records import DatabaseError, Event, JobRecord, Machine, Ownership
from mlora_ray.store.tables import (
    SCHEMA_VERSION,
    BundleRow,
    EventRow,
    JobRow,
    RunFactRow,
    RunRow,
    SchemaRow,
    StepRow,
    Table,
)
from mlora_ray.store.transactions import Transaction, open_engine, said
from mlora_ray.types import BundleReport, FailureReport, JobSpec, JobState, StepReport

FINAL_STATES = tuple(s.value for s in JobState if s.is_final)


class ControlDatabase:
    """Opens, and where needed creates, the database at a SQLAlchemy URL. Raises DatabaseError."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = open_engine(url)
        try:
            Table.metadata.create_all(self._engine)
            self._check_version()
        except SQLAlchemyError as error:
            raise DatabaseError(f"control database {url}: {said(error)}") from error

    def close(self) -> None:
        self._engine.dispose()

    def add_run(self, *, command: str, base: str, machine: Machine, started_at_s: float) -> int:
        """Record a call of `train`; answers its number, from 1."""
        device, threads = machine.device, machine.threads
        with self._transaction() as session:
            row = RunRow(command=command, base=base, device=device, threads=threads, started_at_s=started_at_s)
            session.add(row)
            session.flush()
            return row.id

    def machine(self) -> Machine | None:
        """What the first run trained on; None before it."""
        with self._transaction() as session:
            row = session.scalars(select(RunRow).order_by(RunRow.id).limit(1)).first()
            return Machine(row.device, row.threads, tuple(_facts(session).items())) if row else None

    def bind_host(self, run: int, base_sha256: str, facts: Mapping[str, str]) -> None:
        """Note the hash of the base's weights and the facts of a host's machine.

        Raises MloraError when earlier hosts, of this run or before, had others: the bits would not be the same.
        """
        with self._transaction() as session:
            query = select(RunRow.base_sha256).where(RunRow.base_sha256 != "", RunRow.id != run).limit(1)
            before = session.scalars(query).first()
            if before and before != base_sha256:
                raise MloraError(f"the base's weights have sha256 {base_sha256}, the run began with {before}")
            session.execute(update(RunRow).where(RunRow.id == run).values(base_sha256=base_sha256))
            if not (began := _facts(session)):
                rows = enumerate(facts.items())
                session.add_all(RunFactRow(run=run, name=name, place=i, value=value) for i, (name, value) in rows)
            changed = [f"{k} {facts.get(k)!r} (was {was!r})" for k, was in began.items() if facts.get(k) != was]
            if facts and changed:
                raise MloraError(f"this machine would compute other bits than the run began with: {', '.join(changed)}")

    def add_jobs(self, specs: Sequence[JobSpec], submitted_at_s: float) -> None:
        """Queue jobs. Raises DatabaseError when a name is taken."""
        with self._transaction() as session:
            taken = set(session.scalars(select(JobRow.name)))
            first = len(taken)
            if twice := taken & {s.name for s in specs}:
                raise DatabaseError(f"jobs of these names exist: {', '.join(sorted(twice))}")
            session.add_all(
                JobRow(
                    name=spec.name,
                    place_in_file=first + i,
                    spec=serde.dumps(spec),
                    spec_sha256=serde.spec_sha256(spec),
                    state=JobState.QUEUED.value,
                    submitted_at_s=submitted_at_s,
                )
                for i, spec in enumerate(specs)
            )

    def refresh_specs(self, specs: Sequence[JobSpec]) -> None:
        """Take over where the files of the same specs lie now (a moved directory)."""
        with self._transaction() as session:
            for spec in specs:
                session.execute(update(JobRow).where(JobRow.name == spec.name).values(spec=serde.dumps(spec)))

    def requeue(self, at_s: float) -> None:
        """Begin anew: every job that has not succeeded is QUEUED under a new epoch, from its last bundle."""
        with self._transaction() as session:
            keep = (JobState.SUCCEEDED.value, JobState.CANCELLED.value)
            session.execute(
                update(JobRow)
                .where(JobRow.state.not_in(keep))
                .values(state=JobState.QUEUED.value, epoch=JobRow.epoch + 1, host="", error="")
            )
            session.add(EventRow(at_s=at_s, kind="requeued"))

    def jobs(self) -> list[JobRecord]:
        """All jobs in the order they were submitted."""
        with self._transaction() as session:
            rows = session.scalars(select(JobRow).order_by(JobRow.place_in_file)).all()
            return [_record(row) for row in rows]

    def change_hands(self, changes: Iterable[Ownership], at_s: float, kind: str) -> list[str]:
        """Bump the epoch of each job that still has the one named; answers the names that were changed."""
        changed: list[str] = []
        with self._transaction() as session:
            for name, epoch, state, host in changes:
                matched = _rows_changed(
                    session,
                    update(JobRow)
                    .where(JobRow.name == name, JobRow.epoch == epoch, JobRow.state.not_in(FINAL_STATES))
                    .values(epoch=epoch + 1, state=state.value, host=host),
                )
                if matched:
                    changed.append(name)
                    session.add(EventRow(at_s=at_s, kind=kind, job=name, host=host, epoch=epoch + 1))
        return changed

    def set_state(self, names: Sequence[tuple[str, int]], state: JobState) -> None:
        """Set the state of jobs that still have the named epoch and are not at an end."""
        with self._transaction() as session:
            for name, epoch in names:
                session.execute(
                    update(JobRow)
                    .where(JobRow.name == name, JobRow.epoch == epoch, JobRow.state.not_in(FINAL_STATES))
                    .values(state=state.value)
                )

    def commit_bundle(self, report: BundleReport, at_s: float, host: str = "") -> bool:
        """Make a bundle and its steps the job's newest, if `report.epoch` still owns the job.

        False, and nothing changed, when another owner has taken over or the step is already committed.
        """
        values: dict[str, Any] = {"step": report.step, "bundle_uri": report.bundle_uri}
        values["num_tokens"] = JobRow.num_tokens + sum(s.num_tokens for s in report.steps)
        if report.is_final:
            values |= {"state": JobState.SUCCEEDED.value, "weights_sha256": report.weights_sha256}
        owned = (JobRow.name == report.job, JobRow.epoch == report.epoch, JobRow.state.not_in(FINAL_STATES))
        is_newer = JobRow.step <= report.step if report.is_final else JobRow.step < report.step
        with self._transaction() as session:
            if not _rows_changed(session, update(JobRow).where(*owned, is_newer).values(**values)):
                return False
            session.add_all(_step_row(step, report.epoch) for step in report.steps)
            session.merge(
                BundleRow(
                    job=report.job,
                    step=report.step,
                    epoch=report.epoch,
                    uri=report.bundle_uri,
                    sha256=report.sha256,
                    is_final=report.is_final,
                )
            )
            kind = "succeeded" if report.is_final else "saved"
            detail = f"step={report.step}"
            session.add(EventRow(at_s=at_s, kind=kind, job=report.job, host=host, epoch=report.epoch, detail=detail))
        return True

    def commit_failure(self, report: FailureReport, at_s: float, host: str = "") -> bool:
        """Mark a job FAILED, if `report.epoch` still owns it."""
        owned = (JobRow.name == report.job, JobRow.epoch == report.epoch, JobRow.state.not_in(FINAL_STATES))
        values = {"state": JobState.FAILED.value, "error": report.error}
        with self._transaction() as session:
            if not _rows_changed(session, update(JobRow).where(*owned).values(**values)):
                return False
            row = EventRow(at_s=at_s, kind="failed", job=report.job, host=host, epoch=report.epoch, detail=report.error)
            session.add(row)
        return True

    def steps(self, job: str) -> list[tuple[StepReport, int]]:
        """Committed steps of a job with the epoch each was made under, in order."""
        with self._transaction() as session:
            rows = session.scalars(select(StepRow).where(StepRow.job == job).order_by(StepRow.step)).all()
            return [(_step_report(row), row.epoch) for row in rows]

    def kept_bundles(self, job: str) -> list[tuple[int, str]]:
        """(step, uri) of the committed bundles whose files are kept, oldest first."""
        with self._transaction() as session:
            query = select(BundleRow.step, BundleRow.uri).where(BundleRow.job == job, BundleRow.is_kept)
            return [(step, uri) for step, uri in session.execute(query.order_by(BundleRow.step, BundleRow.epoch))]

    def forget_bundles(self, uris: Sequence[str]) -> None:
        """Note that these files are about to be removed."""
        with self._transaction() as session:
            session.execute(update(BundleRow).where(BundleRow.uri.in_(uris)).values(is_kept=False))

    def roll_back(self, job: str, step: int, uri: str, at_s: float, why: str) -> None:
        """Go back to an older bundle (step 0 and no uri: to the start): later steps and bundles are dropped."""
        with self._transaction() as session:
            session.execute(delete(StepRow).where(StepRow.job == job, StepRow.step > step))
            session.execute(delete(BundleRow).where(BundleRow.job == job, BundleRow.step > step))
            tokens = select(func.coalesce(func.sum(StepRow.num_tokens), 0)).where(StepRow.job == job).scalar_subquery()
            values = {"step": step, "bundle_uri": uri, "num_tokens": tokens}
            session.execute(update(JobRow).where(JobRow.name == job).values(**values))
            session.add(EventRow(at_s=at_s, kind="rolled_back", job=job, detail=f"step={step} why={why}"))

    def add_event(self, entry: Event) -> None:
        with self._transaction() as session:
            session.add(EventRow(**asdict(entry)))

    def events(self) -> list[Event]:
        """The event log, oldest first."""
        with self._transaction() as session:
            rows = session.scalars(select(EventRow).order_by(EventRow.id)).all()
            return [
                Event(at_s=r.at_s, kind=r.kind, job=r.job, host=r.host, epoch=r.epoch, detail=r.detail) for r in rows
            ]

    def _transaction(self) -> Transaction:
        return Transaction(self._engine, self.url)

    def _check_version(self) -> None:
        with Session(self._engine) as session, session.begin():
            version = session.scalars(select(SchemaRow.version)).first()
            if version is None:
                session.add(SchemaRow(version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                known = f"this program knows up to {SCHEMA_VERSION}: use a newer mlora-ray"
                raise DatabaseError(f"control database {self.url} is from a newer version ({version}), {known}")


def _facts(session: Session) -> dict[str, str]:
    """Facts of the first machine that trained, in their order."""
    rows = session.scalars(select(RunFactRow).order_by(RunFactRow.run, RunFactRow.place)).all()
    return {row.name: row.value for row in rows}


def _rows_changed(session: Session, statement: Update) -> int:
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def _record(row: JobRow) -> JobRecord:
    return JobRecord(
        spec=serde.loads(JobSpec, row.spec),
        state=JobState(row.state),
        epoch=row.epoch,
        host=row.host,
        step=row.step,
        bundle_uri=row.bundle_uri,
        weights_sha256=row.weights_sha256,
        error=row.error,
        num_tokens=row.num_tokens,
        submitted_at_s=row.submitted_at_s,
    )


def _step_row(step: StepReport, epoch: int) -> StepRow:
    return StepRow(epoch=epoch, **asdict(step))


def _step_report(row: StepRow) -> StepReport:
    return StepReport(**{name: getattr(row, name) for name in StepReport.__dataclass_fields__})
