"""What users ask of jobs: submit, queue again, pause, cancel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlora_ray.clock import Clock
from mlora_ray.control.hosts.managed_host import HostTable
from mlora_ray.control.jobs.commits import Commits
from mlora_ray.control.jobs.mirror import load_jobs
from mlora_ray.control.jobs.ownership import Ownership
from mlora_ray.control.jobs.state import JobEntry, JobTable
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import JobSpec, JobState


class Commands:
    """Each changes the database first. What has a host leaves it at the next tick."""

    def __init__(
        self,
        database: ControlDatabase,
        jobs: JobTable,
        hosts: HostTable,
        ownership: Ownership,
        commits: Commits,
        clock: Clock,
    ) -> None:
        self._db, self._jobs, self._hosts = database, jobs, hosts
        self._ownership, self._commits, self._clock = ownership, commits, clock

    def submit(self, specs: Sequence[JobSpec], state_bytes: Mapping[str, int] | None = None) -> None:
        """Queue what is new and what had stopped; what runs goes on. `state_bytes` by name is for the policy."""
        now_s = self._clock.now_s()
        new = [s for s in specs if self._jobs.get(s.name) is None]
        known = [s for s in specs if self._jobs.get(s.name) is not None]
        if new:
            self._db.add_jobs(new, now_s)
        if known:
            self._db.refresh_specs(known)
        _take_back([self._jobs[s.name] for s in known])
        stopped = [s.name for s in known if _has_stopped(self._jobs[s.name])]
        if stopped:
            self._db.queue(stopped, now_s)
        load_jobs(self._db, self._jobs, [s.name for s in new] + stopped, state_bytes)
        self._commits.tidy(self._jobs[name] for name in stopped)

    def queue(self, names: Sequence[str]) -> list[str]:
        """Let paused and failed jobs, and those about to be paused, go on from their last bundle. Answers which."""
        returning = _take_back(self._jobs.named(names))
        stopped = [j.name for j in self._jobs.named(names) if _has_stopped(j)]
        queued = self._db.queue(stopped, self._clock.now_s())
        load_jobs(self._db, self._jobs, queued, {n: self._jobs[n].state_bytes for n in queued})
        return [*returning, *queued]

    def pause(self, names: Sequence[str]) -> list[str]:
        """Stop these jobs at their next step boundary, saved; those on no host at once. Answers which."""
        jobs = [j for j in self._jobs.named(names) if j.wants_to_train]
        for job in jobs:
            if self._hosts.is_living(job.record.host):
                job.leaves_for = JobState.PAUSED
        self._ownership.reassign([(j, JobState.PAUSED, "") for j in jobs if j.leaves_for is None], "paused")
        return [j.name for j in jobs]

    def fence_paused(self, names: Sequence[str] = ()) -> list[str]:
        """Whoever was asked to pause and has not left its host by now: PAUSED at its last bundle. Answers which."""
        late = [j for j in self._jobs.named(names) if j.leaves_for is JobState.PAUSED]
        self._ownership.reassign([(j, JobState.PAUSED, "") for j in late], "paused")
        return [j.name for j in late]

    def cancel(self, names: Sequence[str]) -> list[str]:
        """End these jobs where they are; their hosts drop them at the next tick. Answers which."""
        open_names = [j.name for j in self._jobs.named(names) if not j.record.state.is_final]
        cancelled = self._db.cancel(open_names, self._clock.now_s())
        for name in cancelled:
            job = self._jobs[name]
            self._jobs.change(job, state=JobState.CANCELLED, epoch=job.record.epoch + 1, host="")
        return cancelled


def _has_stopped(job: JobEntry) -> bool:
    return job.record.state in (JobState.PAUSED, JobState.FAILED)


def _take_back(jobs: Sequence[JobEntry]) -> list[str]:
    """Whoever is being saved for a pause goes back into the queue instead. Answers which."""
    leaving = [j for j in jobs if j.leaves_for is JobState.PAUSED]
    for job in leaving:
        job.leaves_for = JobState.QUEUED
    return [j.name for j in leaving]
