"""Placement without Ray: what every host is told at a tick, and what its answer changes.

    ticks = placement.plan()                 # host -> Tick, after one decision of the policy
    placement.absorb(host, report)           # commit bundles and failures, keep progress
    placement.host_lost(host, why)           # its jobs queue again under a new epoch

The database is the truth; what is held here is its mirror and is written through. Whoever changes a job's
owner bumps its epoch first, so an owner of before commits nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from mlora_ray.clock import Clock
from mlora_ray.decisions import DecisionLog, safe_decide
from mlora_ray.errors import StorageError
from mlora_ray.ledger import Host, Job, cluster_view, run_status, tokens_total
from mlora_ray.metrics_file import MetricsFiles
from mlora_ray.policies.contract import Policy
from mlora_ray.store.bundles import delete_bundle, list_bundles, read_bundle
from mlora_ray.store.database import ControlDatabase
from mlora_ray.store.records import Event, JobRecord, Ownership
from mlora_ray.types import (
    Ack,
    Assignment,
    BundleReport,
    ClusterView,
    FailureReport,
    HostInfo,
    HostReport,
    JobSpec,
    JobState,
    Migrate,
    Pause,
    Place,
    PolicyState,
    Progress,
    Release,
    RunStatus,
    Tick,
)

NUM_KEPT_BUNDLES = 2
MAX_SAMPLES = 400  # of the throughput curve; then every second one is dropped

log = logging.getLogger(__name__)


class Placement:
    """One policy over many hosts and jobs. Not thread-safe: one thread calls it, `status` included."""

    def __init__(
        self, database: ControlDatabase, policy: Policy, *, out_root: str, bundle_root: str, log_uri: str, clock: Clock
    ) -> None:
        self._db, self._policy, self._clock = database, policy, clock
        self._out_root, self._bundle_root = out_root, bundle_root
        self._decisions = DecisionLog(log_uri)
        self._metrics = MetricsFiles(out_root)
        self._policy_state = PolicyState()
        self._hosts: dict[str, Host] = {}
        self._jobs: dict[str, Job] = {}
        self._state_bytes: dict[str, int] = {}
        self._started_s = clock.elapsed_s()
        self._samples: list[tuple[float, float]] = []
        self._is_sampled = False  # to the end of training
        self._unwritten: set[str] = set()  # jobs whose metrics file lacks committed steps
        self.commits = 0  # bundles committed since the start: a sign of life
        self._load()

    def _load(self) -> None:
        for record in self._db.jobs():
            name = record.spec.name
            kept, size = self._db.kept_bundles(name), self._state_bytes.get(name, 0)
            self._jobs[name] = Job(record, tokens_total(record.spec), kept, size)

    # -- jobs

    def submit(self, specs: Sequence[JobSpec], state_bytes: Mapping[str, int] | None = None) -> None:
        """Queue new jobs; `state_bytes` by name is for the policy."""
        self._state_bytes |= state_bytes or {}
        self._db.add_jobs(specs, self._clock.now_s())
        self._load()

    def resume(self, specs: Sequence[JobSpec], state_bytes: Mapping[str, int] | None = None) -> None:
        """Queue again what has not succeeded, from its last whole bundle; make the files agree with the database."""
        self._state_bytes |= state_bytes or {}
        self._db.refresh_specs(specs)
        self._db.requeue(self._clock.now_s())
        self._load()
        for job in self._jobs.values():
            if not job.record.state.is_final:
                self._fall_back_to_whole(job)
                self._sweep(job)
            self._metrics.rewrite(job.name, (step for step, _ in self._db.steps(job.name)))

    def _fall_back_to_whole(self, job: Job) -> None:
        """A bundle that is damaged or gone costs the steps since the one before, never the job."""
        while job.record.bundle_uri:
            try:
                read_bundle(job.record.bundle_uri)
                return
            except StorageError as error:
                why = str(error)
            job.kept = [(s, uri) for s, uri in job.kept if s < job.record.step]
            step, uri = job.kept[-1] if job.kept else (0, "")
            self._db.roll_back(job.name, step, uri, self._clock.now_s(), why)
            log.warning("rolled back job=%s step=%d: %s", job.name, step, why)
            tokens = sum(s.num_tokens for s, _ in self._db.steps(job.name))
            job.change(step=step, bundle_uri=uri, num_tokens=tokens)

    def _sweep(self, job: Job) -> None:
        """Remove files of bundles that were never committed."""
        kept = {uri for _, uri in job.kept}
        for uri in list_bundles(self._bundle_root, job.name):
            if uri not in kept:
                delete_bundle(uri)

    # -- hosts

    def host_joined(self, info: HostInfo) -> None:
        self._hosts[info.id] = Host(info, HostReport(host=info.id, base=info.base))
        self._event("host_joined", host=info.id, detail=f"pid={info.pid} device={info.device_type}")

    def host_lost(self, host: str, why: str) -> list[str]:
        """Fence a host off: its jobs queue again under a new epoch. Answers their names."""
        self._hosts.pop(host, None)
        self._event("host_lost", host=host, detail=why)
        lost = [j for j in self._jobs.values() if j.record.host == host and not j.record.state.is_final]
        self._hand_over([(j, JobState.QUEUED, "") for j in lost], "requeued")
        log.warning("lost host=%s jobs=%d why=%s", host, len(lost), why)
        return [j.name for j in lost]

    # -- a tick

    def plan(self) -> dict[str, Tick]:
        """Ask the policy, change owners as it says, and tell every host what it has to know."""
        view = self.view()
        before = self._policy_state
        actions, self._policy_state, refused = safe_decide(self._policy, view, before)
        self._decisions.append(view, before, actions, refused)
        for refusal in refused:
            self._event("refused", detail=f"{refusal.action}: {refusal.why}")
        placed = [(self._jobs[a.adapter], JobState.PLACED, a.host) for a in actions if isinstance(a, Place)]
        self._hand_over(placed, "placed")
        for action in actions:
            if isinstance(action, Pause | Migrate):
                self._jobs[action.adapter].goes_to = action.host if isinstance(action, Migrate) else ""
        return {name: self._tick(name, host) for name, host in self._hosts.items()}

    def _tick(self, name: str, host: Host) -> Tick:
        mine = [j for j in self._jobs.values() if j.record.host == name and not j.record.state.is_final]
        assignments = tuple(self._assignment(j) for j in mine if not j.is_taken)
        releases = tuple(Release(j.name, j.record.epoch) for j in mine if j.goes_to is not None and j.is_taken)
        acks, host.acks = tuple(host.acks), []
        return Tick(assignments, releases, acks)

    def _assignment(self, job: Job) -> Assignment:
        out_uri = f"{self._out_root}/{job.name}"
        return Assignment(
            spec=job.record.spec, epoch=job.record.epoch, bundle_uri=job.record.bundle_uri, out_uri=out_uri
        )

    def absorb(self, name: str, report: HostReport) -> None:
        """Take a host's answer in. Raises DatabaseError; then nothing of what is left is acknowledged."""
        host = self._hosts.get(name)
        if host is None:
            return
        host.report = report
        for bundle in report.bundles:
            self._commit(bundle, name)
            host.acks.append(Ack(bundle.job, bundle.epoch, bundle.step))
        for failure in report.failures:
            self._commit_failure(failure, name)
            host.acks.append(Ack(failure.job, failure.epoch, failure.step, is_failure=True))
        self._take_progress(name, report.progress)

    def _take_progress(self, host: str, progress: Iterable[Progress]) -> None:
        shown = {(p.job, p.epoch): p for p in progress}
        started = []
        for job in self._jobs.values():
            if job.record.host != host or job.record.state.is_final:
                continue
            now = shown.get((job.name, job.record.epoch))
            if now is not None:
                job.progress, job.is_taken = now, True
                if job.record.state is JobState.PLACED:
                    started.append(job)
            elif job.is_taken and job.goes_to is not None:
                self._left(job)
        if started:
            self._db.set_state([(j.name, j.record.epoch) for j in started], JobState.TRAINING)
            for job in started:
                job.change(state=JobState.TRAINING)

    def _left(self, job: Job) -> None:
        """A released job is off its host, its bundle committed."""
        target = job.goes_to if job.goes_to in self._hosts else ""
        state = JobState.PLACED if target else JobState.QUEUED if job.goes_to else JobState.PAUSED
        self._hand_over([(job, state, target or "")], "migrated" if target else "paused")

    def _hand_over(self, changes: list[tuple[Job, JobState, str]], kind: str) -> None:
        if not changes:
            return
        owners = [Ownership(job.name, job.record.epoch, state, host) for job, state, host in changes]
        changed = set(self._db.change_hands(owners, self._clock.now_s(), kind))
        for job, state, host in changes:
            if job.name in changed:
                job.change(epoch=job.record.epoch + 1, state=state, host=host)
                job.is_taken, job.goes_to = False, None

    def _commit(self, report: BundleReport, host: str) -> None:
        if not self._db.commit_bundle(report, self._clock.now_s(), host):
            return
        self.commits += 1
        job = self._jobs[report.job]
        tokens = job.record.num_tokens + sum(s.num_tokens for s in report.steps)
        job.change(step=report.step, bundle_uri=report.bundle_uri, num_tokens=tokens)
        if report.is_final:
            job.change(state=JobState.SUCCEEDED, weights_sha256=report.weights_sha256)
        if not self._metrics.append(report):
            self._unwritten.add(job.name)
        job.kept.append((report.step, report.bundle_uri))
        old, job.kept = job.kept[:-NUM_KEPT_BUNDLES], job.kept[-NUM_KEPT_BUNDLES:]
        kept = {uri for _, uri in job.kept}
        gone = [uri for _, uri in old if uri not in kept]
        if gone:
            self._db.forget_bundles(gone)
        for uri in gone:
            try:
                delete_bundle(uri)
            except StorageError as error:  # it costs space, nothing else
                log.warning("job=%s %s", job.name, error)

    def _commit_failure(self, report: FailureReport, host: str) -> None:
        if self._db.commit_failure(report, self._clock.now_s(), host):
            self._jobs[report.job].change(state=JobState.FAILED, error=report.error)

    def mend_metrics(self) -> None:
        """Write anew the metrics files that a full disk left short. Raises StorageError."""
        for name in sorted(self._unwritten):
            self._metrics.rewrite(name, (step for step, _ in self._db.steps(name)))
            self._unwritten.discard(name)

    def pause_all(self) -> None:
        """The run stops here: what has not ended is PAUSED."""
        waiting = [j for j in self._jobs.values() if not j.record.state.is_final]
        self._db.set_state([(j.name, j.record.epoch) for j in waiting], JobState.PAUSED)
        for job in waiting:
            job.change(state=JobState.PAUSED)
        self._event("stopped", detail=f"paused={len(waiting)}")

    # -- what others see

    def view(self) -> ClusterView:
        """What the policy may know."""
        return cluster_view(self._jobs.values(), self._hosts, self._clock.now_s())

    @property
    def is_done(self) -> bool:
        return all(j.record.state.is_final for j in self._jobs.values())

    def records(self) -> list[JobRecord]:
        return [j.record for j in self._jobs.values()]

    def samples(self) -> list[tuple[float, float]]:
        """(seconds since the start, tokens/s): the throughput curve."""
        return list(self._samples)

    def sample(self) -> None:
        """Add a point to the throughput curve; the one at the end of training is the last."""
        if self._is_sampled:
            return
        self._is_sampled = self.is_done
        rate = sum(h.report.tokens_per_s for h in self._hosts.values())
        self._samples.append((self._clock.elapsed_s() - self._started_s, rate))
        if len(self._samples) > MAX_SAMPLES:
            self._samples = self._samples[1::2]

    def status(self, phase: str = "training", error: str = "") -> RunStatus:
        elapsed_s = self._clock.elapsed_s() - self._started_s
        reports = [h.report for h in self._hosts.values()]
        return run_status(self._jobs.values(), reports, elapsed_s, phase, error)

    def _event(self, kind: str, *, host: str = "", detail: str = "") -> None:
        self._db.add_event(Event(at_s=self._clock.now_s(), kind=kind, host=host, detail=detail))
