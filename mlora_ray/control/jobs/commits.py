"""What hosts report for good: bundles and failures into the database, the files that follow from them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.jobs.bundle_retention import SavedFiles
from mlora_ray.control.jobs.ownership import Ownership
from mlora_ray.control.jobs.state import JobEntry, JobTable
from mlora_ray.control.metrics import Metrics
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.store.metrics_file import MetricsFiles
from mlora_ray.types import BundleReport, FailureReport, JobState
from mlora_ray.types.backoff import backoff_s
from mlora_ray.types.records import Commit

MAX_UNREAD = 8  # times in a row that no host could read a job's files, with waits between; then it fails
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0

log = logging.getLogger(__name__)


class Commits:
    """Takes reports in, each of them as often as it comes: only the first of an owner changes anything."""

    def __init__(
        self,
        database: ControlDatabase,
        jobs: JobTable,
        owners: Ownership,
        settings: ServiceSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._db, self._jobs, self._ownership, self._clock, self._metrics = database, jobs, owners, clock, metrics
        self._saved = SavedFiles(database, settings.bundle_root, settings.probe_uri)
        self._files = MetricsFiles(settings.storage)
        self._unwritten: set[str] = set()  # jobs whose metrics file lacks committed steps, or has too many
        self.num_commits = 0  # since the start: a sign of life

    def bundles(self, reports: Sequence[tuple[BundleReport, str]]) -> None:
        """Commit bundles and their steps, each with its host, in one transaction.

        Raises DatabaseError; then none of them is to be acknowledged.
        """
        if not reports:
            return
        superfluous: list[str] = []
        outcomes = self._db.commit_bundles(reports, self._clock.now_s())
        for (report, host), outcome in zip(reports, outcomes, strict=True):
            self._metrics.count("mlora_bundle_commits", outcome=str(outcome))
            job = self._jobs[report.job]
            if outcome is Commit.GAP:
                log.error("job=%s host=%s step=%d has a gap before it: replayed", job.name, host, report.step)
                self._ownership.reassign([(job, JobState.QUEUED, "")], "gap")
            if outcome is Commit.COMMITTED:
                superfluous += self._keep(job, report)
        self._saved.remove(superfluous)

    def _keep(self, job: JobEntry, report: BundleReport) -> list[str]:
        """Answers the bundles that are superfluous now."""
        self.num_commits += 1
        job.num_unread = 0
        new = tuple(s for s in report.steps if s.step > job.record.step)
        tokens = job.record.num_tokens + sum(s.num_tokens for s in new)
        job.last_loss = new[-1].loss if new else job.last_loss
        self._jobs.change(job, step=report.step, bundle_uri=report.bundle_uri, num_tokens=tokens)
        if report.is_final:
            self._jobs.change(job, state=JobState.SUCCEEDED, weights_sha256=report.weights_sha256)
        if job.name in self._unwritten or not self._files.append(job.name, new, report.is_final):
            self._unwritten.add(job.name)
        superfluous = self._saved.keep(job, report)
        if report.is_final:
            self._saved.sweep(job)
        return superfluous

    def failure(self, report: FailureReport, host: str) -> None:
        """One job fails; or, where a host could not read its files, it tries again. Raises DatabaseError."""
        job = self._jobs[report.job]
        if report.epoch != job.record.epoch or job.record.state.is_final:
            return
        if report.is_unread and job.num_unread < MAX_UNREAD:
            self._read_later(job, report)
        elif self._db.commit_failure(report, self._clock.now_s(), host):
            self._jobs.change(job, state=JobState.FAILED, error=report.reason)

    def _read_later(self, job: JobEntry, report: FailureReport) -> None:
        """A bundle that is damaged or gone costs the steps since the one before; storage that is away, a wait."""
        self._metrics.count("mlora_storage_failures", operation="read")
        if self._saved.fall_back_to_whole(self._jobs, job, self._clock.now_s()):
            self._unwritten.add(job.name)
        else:
            job.num_unread += 1
            job.waits_until_s = self._clock.now_s() + backoff_s(job.num_unread, FIRST_BACKOFF_S, MAX_BACKOFF_S)
        log.warning("job=%s host=%s cannot be read there: %s", job.name, job.record.host, report.error)
        self._ownership.reassign([(job, JobState.QUEUED, "")], "requeued")

    # -- files

    def tidy(self, jobs: Iterable[JobEntry]) -> None:
        """These begin again where they stopped: stray files go, the metrics files are made to agree."""
        for job in jobs:
            self._saved.sweep(job)
            self._unwritten.add(job.name)

    def mend_later(self, job: JobEntry) -> None:
        """Its metrics file may lack committed steps."""
        self._unwritten.add(job.name)

    def doubt_files(self, jobs: Iterable[JobEntry]) -> None:
        """A placement before this one may have died between a commit and the metrics file."""
        for job in jobs:
            if not self._files.is_whole(job.name, job.record.step, job.record.state.is_final):
                self._unwritten.add(job.name)

    def mend_files(self, at_most: int = 20) -> None:
        """Write anew metrics files that do not agree with the database. Raises StorageError."""
        for name in sorted(self._unwritten)[:at_most]:
            self._files.rewrite(name, (step for step, _ in self._db.steps(name)))
            self._unwritten.discard(name)
