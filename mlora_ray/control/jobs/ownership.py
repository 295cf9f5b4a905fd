"""Changing who owns a job: its epoch is bumped in the database before anybody is told; owners of before are fenced."""

from __future__ import annotations

from collections.abc import Sequence

from mlora_ray.clock import Clock
from mlora_ray.control.jobs.state import JobEntry, JobTable
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import JobState
from mlora_ray.types.records import Event, Reassignment


class Ownership:
    """Writes changes of hands through to the database and its mirror, and events."""

    def __init__(self, database: ControlDatabase, jobs: JobTable, clock: Clock) -> None:
        self._db, self._jobs, self._clock = database, jobs, clock

    def reassign(self, changes: Sequence[tuple[JobEntry, JobState, str]], kind: str) -> None:
        """Give each job a new epoch, state and host. One that has changed hands meanwhile is left alone."""
        if not changes:
            return
        owners = [Reassignment(job.name, job.record.epoch, state, host) for job, state, host in changes]
        changed = set(self._db.change_hands(owners, self._clock.now_s(), kind))
        for job, state, host in changes:
            if job.name in changed:
                self._jobs.change(job, epoch=job.record.epoch + 1, state=state, host=host)
                job.is_taken, job.is_moving, job.leaves_for = False, False, None

    def event(self, kind: str, *, job: str = "", host: str = "", epoch: int = 0, detail: str = "") -> None:
        self._db.add_event(Event(at_s=self._clock.now_s(), kind=kind, job=job, host=host, epoch=epoch, detail=detail))
