"""Committed steps and bundles of jobs. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Session

from mlora_ray.store.database.jobs import open_steps, owned
from mlora_ray.store.database.mapping import num_changed, step_values
from mlora_ray.store.database.tables import BundleRow, EventRow, JobRow, StepRow, Table
from mlora_ray.types import BundleReport, FailureReport, JobState, StepReport
from mlora_ray.types.records import Commit


def commit_bundles(session: Session, reports: Sequence[tuple[BundleReport, str]], at_s: float) -> list[Commit]:
    """(report, host) in order. Read once, and each table written once: 2,000 jobs commit 40 bundles a second."""
    batch = _Batch(session, [report.job for report, _ in reports], at_s)
    outcomes = [batch.take(report, host) for report, host in reports]
    batch.write()
    return outcomes


class _Batch:
    """Bundles of one transaction: the jobs as they will be, and the rows that are to be written."""

    def __init__(self, session: Session, names: Sequence[str], at_s: float) -> None:
        self._session, self._at_s = session, at_s
        self._open = open_steps(session, names)
        self._moves: list[dict[str, Any]] = []
        self._ends: list[dict[str, Any]] = []
        self._rows: dict[type[Table], list[dict[str, Any]]] = {StepRow: [], BundleRow: [], EventRow: []}

    def take(self, report: BundleReport, host: str) -> Commit:
        epoch, step = self._open.get(report.job, (None, 0))
        if epoch != report.epoch or report.step < step or (report.step == step and not report.is_final):
            return Commit.STALE
        new = [s for s in report.steps if s.step > step]
        if [s.step for s in new] != list(range(step + 1, report.step + 1)):
            return Commit.GAP
        self._move_on(report, new)
        key = {"job": report.job, "step": report.step, "epoch": report.epoch}
        bundles = self._rows[BundleRow]
        if not new:  # a final bundle of a step that has one
            self._session.execute(delete(BundleRow).filter_by(**key))
            bundles[:] = [row for row in bundles if not key.items() <= row.items()]
        bundles.append(
            {**key, "uri": report.bundle_uri, "sha256": report.sha256, "is_final": report.is_final, "is_kept": True}
        )
        kind = "succeeded" if report.is_final else "saved"
        event = {"at_s": self._at_s, "kind": kind, "job": report.job, "host": host, "epoch": report.epoch}
        self._rows[StepRow] += [step_values(step, report.epoch) for step in new]
        self._rows[EventRow].append({**event, "detail": f"step={report.step}"})
        return Commit.COMMITTED

    def _move_on(self, report: BundleReport, new: Sequence[StepReport]) -> None:
        self._open[report.job] = (report.epoch, report.step)
        tokens = sum(s.num_tokens for s in new)
        move = {"of": report.job, "to": report.step, "at": report.bundle_uri, "more": tokens}
        self._moves.append(move)
        if report.is_final:
            del self._open[report.job]
            self._ends.append({"of": report.job, "hash": report.weights_sha256})

    def write(self) -> None:
        """Moves before ends: an end is a job's last word."""
        connection = self._session.connection()
        mine = update(JobRow).where(JobRow.name == bindparam("of"))
        if self._moves:
            tokens = JobRow.num_tokens + bindparam("more")
            moved = mine.values(step=bindparam("to"), bundle_uri=bindparam("at"), num_tokens=tokens)
            connection.execute(moved, self._moves)
        if self._ends:
            ended = mine.values(state=JobState.SUCCEEDED.value, weights_sha256=bindparam("hash"))
            connection.execute(ended, self._ends)
        for table, rows in self._rows.items():
            if rows:
                connection.execute(insert(table), rows)


def commit_failure(session: Session, report: FailureReport, at_s: float, host: str) -> bool:
    values = {"state": JobState.FAILED.value, "error": report.reason}
    if not num_changed(session, update(JobRow).where(*owned(report.job, report.epoch)).values(**values)):
        return False
    row = EventRow(at_s=at_s, kind="failed", job=report.job, host=host, epoch=report.epoch, detail=report.reason)
    session.add(row)
    return True


def last_losses(session: Session) -> dict[str, float]:
    newest = (StepRow.job == JobRow.name) & (StepRow.step == JobRow.step)
    return dict(session.execute(select(StepRow.job, StepRow.loss).join(JobRow, newest)).tuples().all())


def kept_bundles(session: Session, job: str = "") -> dict[str, list[tuple[int, str]]]:
    """Job to its kept bundles, oldest first; of every job where none is named."""
    query = select(BundleRow.job, BundleRow.step, BundleRow.uri).where(BundleRow.is_kept)
    query = query.order_by(BundleRow.job, BundleRow.step, BundleRow.epoch)
    found: dict[str, list[tuple[int, str]]] = {}
    for name, step, uri in session.execute(query.where(BundleRow.job == job) if job else query):
        found.setdefault(name, []).append((step, uri))
    return found


def roll_back(session: Session, job: str, step: int, uri: str, at_s: float, why: str) -> None:
    session.execute(delete(StepRow).where(StepRow.job == job, StepRow.step > step))
    session.execute(delete(BundleRow).where(BundleRow.job == job, BundleRow.step > step))
    tokens = select(func.coalesce(func.sum(StepRow.num_tokens), 0)).where(StepRow.job == job).scalar_subquery()
    values: dict[str, Any] = {"step": step, "bundle_uri": uri, "num_tokens": tokens}
    if step == 0:
        values["numerics"] = ""  # nothing is left that other hosts would have to continue
    session.execute(update(JobRow).where(JobRow.name == job).values(**values))
    session.add(EventRow(at_s=at_s, kind="rolled_back", job=job, detail=f"step={step} why={why}"))
