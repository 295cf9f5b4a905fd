"""What a host's answer changes: bundles and failures are committed, starts are written down, progress is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlora_ray.clock import Clock
from mlora_ray.control.hosts.managed_host import HostTable, ManagedHost
from mlora_ray.control.jobs.commits import Commits
from mlora_ray.control.jobs.moves import Moves
from mlora_ray.control.jobs.ownership import Ownership
from mlora_ray.control.jobs.state import JobEntry, JobTable
from mlora_ray.control.jobs.step_time_learner import StepLearner
from mlora_ray.control.metrics import Metrics
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import Ack, Arrival, HostReport, JobState, Progress


class Reports:
    """Takes answers in; what is said again changes nothing."""

    def __init__(
        self,
        database: ControlDatabase,
        jobs: JobTable,
        hosts: HostTable,
        ownership: Ownership,
        commits: Commits,
        moves: Moves,
        learner: StepLearner,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._db, self._jobs, self._hosts, self._ownership = database, jobs, hosts, ownership
        self._commits, self._moves, self._learner = commits, moves, learner
        self._clock, self._metrics = clock, metrics

    def absorb(self, heard: Sequence[tuple[str, HostReport]]) -> None:
        """Take in what hosts answered. Raises DatabaseError; then nothing of what is left is acknowledged.

        One transaction for the bundles of all and one for all who started: with 50 hosts a tick is mostly those.
        """
        known = [(self._hosts[name], report) for name, report in heard if self._hosts.is_living(name)]
        self._commits.bundles([(bundle, host.name) for host, report in known for bundle in report.bundles])
        started: dict[str, list[JobEntry]] = {}
        for host, report in known:
            self._note_figures(host, report)
            self._acknowledge(host, report)
            for arrival in report.arrivals:
                self._note_arrival(host.name, arrival)
            started.setdefault(host.numerics, []).extend(self._take_progress(host.name, report.progress))
        for numerics, jobs in started.items():
            self._start(jobs, numerics)

    def _note_figures(self, host: ManagedHost, report: HostReport) -> None:
        num_failed = report.num_failed_saves - host.report.num_failed_saves
        self._metrics.count("mlora_storage_failures", max(0, num_failed), operation="write")
        self._learner.take(host, report)
        if report.row_why != host.report.row_why != "":
            detail = f"{report.row_tokens:,} tokens: {report.row_why}"
            self._ownership.event("row_size", host=host.name, detail=detail)
        host.report = report

    def _acknowledge(self, host: ManagedHost, report: HostReport) -> None:
        name = host.name
        # A state that leaves takes with it the steps that are not acknowledged: these came too late to be committed.
        leaving = self._moves.leaving(name)
        host.acks += [Ack(b.job, b.epoch, b.step) for b in report.bundles if (b.job, b.epoch) not in leaving]
        for failure in report.failures:
            self._commits.failure(failure, name)
            host.acks.append(Ack(failure.job, failure.epoch, failure.step, is_failure=True))

    def _note_arrival(self, host: str, arrival: Arrival) -> None:
        detail = f"step={arrival.step} pause_s={arrival.pause_s:.3f}"
        self._ownership.event("migrated", job=arrival.job, host=host, epoch=arrival.epoch, detail=detail)
        reason = self._moves.take_reason(arrival.job)
        self._metrics.seconds("mlora_migration_pause_seconds", arrival.pause_s, reason=reason)
        self._metrics.count("mlora_job_migrations", reason=reason)

    def _take_progress(self, host: str, progress: Iterable[Progress]) -> list[JobEntry]:
        """Answers the jobs that have started there."""
        shown = {(p.job, p.epoch): p for p in progress}
        started = []
        for job in self._jobs.on(host):
            now = shown.get((job.name, job.record.epoch))
            if now is not None:
                job.progress, job.is_taken, job.is_moving = now, True, False
                self._note_recovery(job)
                if job.record.state in (JobState.PLACED, JobState.MIGRATING):
                    started.append(job)
            elif job.is_taken and job.leaves_for is not None:
                self._ownership.reassign([(job, job.leaves_for, "")], "released")
            elif job.is_taken:
                job.is_taken = False  # a host that lost it is told again
        return started

    def _note_recovery(self, job: JobEntry) -> None:
        """The first step beyond the last bundle of a job whose host was lost."""
        if job.lost_s is None or job.num_uncommitted == 0:
            return
        took_s, job.lost_s = self._clock.elapsed_s() - job.lost_s, None
        self._metrics.seconds("mlora_recovery_seconds", took_s, cause=job.lost_cause)
        detail = f"seconds={took_s:.2f} step={job.record.step + job.num_uncommitted}"
        record = job.record
        self._ownership.event("recovered", job=job.name, host=record.host, epoch=record.epoch, detail=detail)

    def _start(self, jobs: Sequence[JobEntry], numerics: str) -> None:
        if jobs:
            self._db.start_jobs([(j.name, j.record.epoch) for j in jobs], numerics)
        for job in jobs:
            self._jobs.change(job, state=JobState.TRAINING, numerics=job.record.numerics or numerics)
