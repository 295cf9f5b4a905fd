"""Placement without Ray: who trains where, what every host is told, and what its answer changes.

    moves = placement.decide(placement.view()) # one decision of the policy, owners changed in the database
    tick = placement.tick_for(host)          # what this host has to know
    placement.absorb(heard)                  # commit bundles and failures of (host, report), keep progress
    placement.host_lost(host, why)           # its jobs queue again under a new epoch

The database is the truth; what is held here is its mirror and is written through. Whoever changes a job's
owner bumps its epoch first, so an owner of before commits nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.jobs.commits import Commits
from mlora_ray.control.jobs.ownership import Ownership
from mlora_ray.control.jobs.policy_guard import safe_decide
from mlora_ray.control.jobs.state import HostEntry, JobEntry, JobTable
from mlora_ray.control.jobs.step_time_learner import StepLearner
from mlora_ray.control.jobs.views import adapter_views, host_views, run_status
from mlora_ray.control.metrics import Metrics
from mlora_ray.data.batch_sampler import tokens_total
from mlora_ray.policies.contract import Policy
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.store.decision_log import DecisionLog
from mlora_ray.types import (
    Ack,
    Assignment,
    ClusterView,
    HostInfo,
    HostReport,
    HostType,
    HostView,
    JobSpec,
    JobState,
    Migrate,
    Pause,
    Place,
    PolicyState,
    Progress,
    Release,
    Tick,
)
from mlora_ray.types.records import JobRecord
from mlora_ray.types.status import RunStatus

ON_A_HOST = (JobState.PLACED, JobState.TRAINING, JobState.MIGRATING)

log = logging.getLogger(__name__)


class Move(NamedTuple):
    """A job's state goes from `source`, which trained it under `old_epoch`, to the host of `assignment`."""

    assignment: Assignment
    source: str
    target: str
    old_epoch: int


class Placement:
    """One policy over many hosts and jobs. Not thread-safe: one thread at a time calls it."""

    def __init__(
        self,
        database: ControlDatabase,
        policy: Policy,
        settings: ServiceSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._db, self._policy, self._clock, self._metrics = database, policy, clock, metrics
        self._storage = settings.storage
        self._host_types = settings.host_types
        self._decisions = DecisionLog(settings.decisions_uri, settings.policy)
        self.policy_state = PolicyState()
        self._learner = StepLearner(settings.step_times)
        self._started_s = clock.elapsed_s()
        self._leaving: dict[str, tuple[str, int]] = {}  # job -> host and epoch that its state comes from
        self._reasons: dict[str, str] = {}  # job -> why it moves, where it is not the policy
        self.hosts: dict[str, HostEntry] = {}
        self.jobs = JobTable()
        self._ownership = Ownership(database, self.jobs, clock)
        self.commits = Commits(database, self.jobs, self._ownership, settings, clock, metrics)
        self._load(None)
        self.commits.doubt_files(self.jobs)

    def _load(self, names: Sequence[str] | None, state_bytes: Mapping[str, int] | None = None) -> None:
        """Mirror the rows of these jobs, or of all."""
        kept, losses = self._db.kept_bundles_of_all(), self._db.last_losses()
        wanted = None if names is None else set(names)
        for record in self._db.jobs():
            name = record.spec.name
            if wanted is not None and name not in wanted:
                continue
            size = (state_bytes or {}).get(name, 0)
            loss = losses.get(name, math.nan)
            self.jobs.put(JobEntry(record, tokens_total(record.spec), kept.get(name, []), size, last_loss=loss))

    def read_again(self) -> None:
        """After a write that raised and may have been done all the same: mirror what the rows say."""
        kept = self._db.kept_bundles_of_all()
        for record in self._db.jobs():
            job = self.jobs.get(record.spec.name)
            if job is None:
                self.jobs.put(JobEntry(record, tokens_total(record.spec), kept.get(record.spec.name, [])))
            elif job.record != record:
                if job.record.epoch != record.epoch:
                    job.is_taken, job.is_moving, job.leaves_for = False, False, None
                job.kept = kept.get(job.name, [])
                self.jobs.mirror(job, record)
                self.commits.mend_later(job)
                log.warning("job=%s was changed by a write that had raised", job.name)

    # -- what users ask

    def submit(self, specs: Sequence[JobSpec], state_bytes: Mapping[str, int] | None = None) -> None:
        """Queue what is new and what had stopped; what runs goes on. `state_bytes` by name is for the policy."""
        now_s = self._clock.now_s()
        new = [s for s in specs if self.jobs.get(s.name) is None]
        known = [s for s in specs if self.jobs.get(s.name) is not None]
        if new:
            self._db.add_jobs(new, now_s)
        if known:
            self._db.refresh_specs(known)
        self._take_back([self.jobs[s.name] for s in known])
        stopped = [s.name for s in known if self._has_stopped(self.jobs[s.name])]
        if stopped:
            self._db.queue(stopped, now_s)
        self._load([s.name for s in new] + stopped, state_bytes)
        self.commits.tidy(self.jobs[name] for name in stopped)

    @staticmethod
    def _has_stopped(job: JobEntry) -> bool:
        return job.record.state in (JobState.PAUSED, JobState.FAILED)

    def queue(self, names: Sequence[str]) -> list[str]:
        """Let paused and failed jobs, and those about to be paused, go on from their last bundle. Answers which."""
        returning = self._take_back(self.jobs.named(names))
        queued = self._db.queue([j.name for j in self.jobs.named(names) if self._has_stopped(j)], self._clock.now_s())
        self._load(queued, {n: self.jobs[n].state_bytes for n in queued})
        return [*returning, *queued]

    @staticmethod
    def _take_back(jobs: Sequence[JobEntry]) -> list[str]:
        """Whoever is being saved for a pause goes back into the queue instead. Answers which."""
        leaving = [j for j in jobs if j.leaves_for is JobState.PAUSED]
        for job in leaving:
            job.leaves_for = JobState.QUEUED
        return [j.name for j in leaving]

    def pause(self, names: Sequence[str]) -> list[str]:
        """Stop these jobs at their next step boundary, saved; those on no host at once. Answers which."""
        jobs = [j for j in self.jobs.named(names) if j.record.state in (*ON_A_HOST, JobState.QUEUED)]
        for job in jobs:
            if job.record.host in self.hosts:
                job.leaves_for = JobState.PAUSED
        self._ownership.reassign([(j, JobState.PAUSED, "") for j in jobs if j.leaves_for is None], "paused")
        return [j.name for j in jobs]

    def fence_paused(self, names: Sequence[str] = ()) -> list[str]:
        """Whoever was asked to pause and has not left its host by now: PAUSED at its last bundle. Answers which."""
        late = [j for j in self.jobs.named(names) if j.leaves_for is JobState.PAUSED]
        self._ownership.reassign([(j, JobState.PAUSED, "") for j in late], "paused")
        return [j.name for j in late]

    def cancel(self, names: Sequence[str]) -> list[str]:
        """End these jobs where they are; their hosts let them go at the next tick. Answers which."""
        open_names = [j.name for j in self.jobs.named(names) if not j.record.state.is_final]
        cancelled = self._db.cancel(open_names, self._clock.now_s())
        for name in cancelled:
            job = self.jobs[name]
            self.jobs.change(job, state=JobState.CANCELLED, epoch=job.record.epoch + 1, host="")
        return cancelled

    # -- hosts

    def host_joined(self, info: HostInfo, host_type: HostType) -> None:
        detail = f"pid={info.pid} device={info.device_type} node={info.node_ip} numerics={info.numerics[:8]}"
        self._ownership.event("host_joined", host=info.id, detail=detail)
        self.hosts[info.id] = HostEntry(info, host_type, HostReport(host=info.id, base=info.base))

    def host_lost(self, host: str, why: str, cause: str) -> list[str]:
        """Fence a host off: its jobs queue again under a new epoch. Answers their names; `cause` is for metrics."""
        lost = self.jobs.on(host)
        for job in lost:
            job.lost_s, job.lost_cause = self._clock.elapsed_s(), cause
            self._metrics.count("mlora_lost_steps", job.num_uncommitted, cause=cause)
        self._ownership.reassign([(j, j.leaves_for or JobState.QUEUED, "") for j in lost], "requeued")
        self._ownership.event("host_lost", host=host, detail=why)
        self.hosts.pop(host, None)
        log.warning("lost host=%s jobs=%d why=%s", host, len(lost), why)
        return [j.name for j in lost]

    def host_left(self, host: str, why: str) -> None:
        """An empty host has gone."""
        self._ownership.event("host_left", host=host, detail=why)
        self.hosts.pop(host, None)

    def drain(self, host: str, why: str, leaves_at_s: float | None = None) -> None:
        """Nobody comes here any more, and everybody leaves (see `decide`)."""
        held = self.hosts[host]
        held.leaves_at_s = leaves_at_s if held.leaves_at_s is None else held.leaves_at_s
        if not held.is_draining:
            held.is_draining = True
            self._ownership.event("host_drains", host=host, detail=why)

    # -- a tick

    def decide(self, view: ClusterView) -> list[Move]:
        """Ask the policy, change owners as it says, empty draining hosts; answers the moves to be made."""
        before = self.policy_state
        actions, self.policy_state, refused = safe_decide(self._policy, view, before)
        self._decisions.append(view, before, actions, refused)
        for refusal in refused:
            self._ownership.event("refused", detail=f"{refusal.action}: {refusal.why}")
        placed = [(self.jobs[a.adapter], JobState.PLACED, a.host) for a in actions if isinstance(a, Place)]
        self._ownership.reassign(placed, "placed")
        for action in actions:
            if isinstance(action, Pause):
                self.jobs[action.adapter].leaves_for = JobState.QUEUED
        leaving = self._moves_off_draining()
        self._reasons |= {job.name: "drain" for job, _ in leaving}
        wanted = [(self.jobs[a.adapter], a.host) for a in actions if isinstance(a, Migrate)]
        return self._start_moves([*leaving, *wanted])

    def _moves_off_draining(self) -> list[tuple[JobEntry, str]]:
        """Every job of a draining host goes to the emptiest host that computes the same bits, else into the queue."""
        moves, load = [], {name: len(self.jobs.on(name)) for name in self.hosts}
        for name in [n for n, h in self.hosts.items() if h.is_draining]:
            for job in self.jobs.on(name):
                if job.is_moving or job.leaves_for is not None:
                    continue
                targets = [n for n, h in self.hosts.items() if not h.is_draining and self._can_go_on(job, h)]
                if not targets:
                    job.leaves_for = JobState.QUEUED
                    continue
                target = min(targets, key=lambda n: (load[n], n))
                load[target] += 1
                moves.append((job, target))
        return moves

    @staticmethod
    def _can_go_on(job: JobEntry, host: HostEntry) -> bool:
        spec = job.record.spec
        is_same = job.record.numerics in ("", host.info.numerics)
        return is_same and host.info.base == spec.base.id and spec.device_type in ("", host.info.device_type)

    def _start_moves(self, wanted: Iterable[tuple[JobEntry, str]]) -> list[Move]:
        moves: dict[str, tuple[JobEntry, str, int, str, bool]] = {}
        for job, target in wanted:
            if not job.is_moving and job.leaves_for is None and job.name not in moves:
                moves[job.name] = (job, job.record.host, job.record.epoch, target, job.is_taken)
        self._ownership.reassign(
            [(job, JobState.MIGRATING, target) for job, _, _, target, _ in moves.values()], "moving"
        )
        started = []
        for job, source, epoch, target, was_taken in moves.values():
            if was_taken and job.record.epoch == epoch + 1:
                job.is_moving = True
                self._leaving[job.name] = (source, epoch)
                started.append(Move(self._assignment(job), source, target, epoch))
        return started

    def move_ended(self, job_name: str, epoch: int, why: str = "") -> None:
        """The state has arrived; or, with a reason, it has not: the job goes on there from its last bundle."""
        self._leaving.pop(job_name, None)
        job = self.jobs.get(job_name)
        if job is None or job.record.epoch != epoch:
            return
        job.is_moving = False
        if why:
            detail = f"goes on from its bundle of step {job.record.step}: {why}"
            self._ownership.event("move_failed", job=job_name, host=job.record.host, epoch=epoch, detail=detail)

    def tick_for(self, name: str) -> Tick:
        """Assignments not yet taken, releases, acknowledgements, and everything that this host owns."""
        host, mine = self.hosts[name], self.jobs.on(name)
        assignments = tuple(self._assignment(j) for j in mine if not j.is_taken and not j.is_moving)
        releases = tuple(Release(j.name, j.record.epoch) for j in mine if j.leaves_for is not None and j.is_taken)
        acks, host.acks = tuple(host.acks), []
        going = {(job, epoch) for job, (source, epoch) in self._leaving.items() if source == name}
        return Tick(assignments, releases, acks, frozenset({(j.name, j.record.epoch) for j in mine} | going))

    def _assignment(self, job: JobEntry) -> Assignment:
        record = job.record
        out_uri = f"{self._storage}/{job.name}"
        return Assignment(spec=record.spec, epoch=record.epoch, bundle_uri=record.bundle_uri, out_uri=out_uri)

    def absorb(self, heard: Sequence[tuple[str, HostReport]]) -> None:
        """Take in what hosts answered. Raises DatabaseError; then nothing of what is left is acknowledged.

        One transaction for the bundles of all and one for all who started: with 50 hosts a tick is mostly those.
        """
        known = [(name, report) for name, report in heard if name in self.hosts]
        self.commits.bundles([(bundle, name) for name, report in known for bundle in report.bundles])
        started: dict[str, list[JobEntry]] = {}
        for name, report in known:
            self._absorb(name, report)
            numerics = self.hosts[name].info.numerics
            started.setdefault(numerics, []).extend(self._take_progress(name, report.progress))
        for numerics, jobs in started.items():
            self._start(jobs, numerics)

    def _absorb(self, name: str, report: HostReport) -> None:
        host = self.hosts[name]
        num_failed = report.num_failed_saves - host.report.num_failed_saves
        self._metrics.count("mlora_storage_failures", max(0, num_failed), operation="write")
        self._learner.take(host, report)
        if report.row_why != host.report.row_why != "":
            self._ownership.event("row_size", host=name, detail=f"{report.row_tokens:,} tokens: {report.row_why}")
        host.report = report
        # A state that leaves takes with it the steps that are not acknowledged: these came too late to be committed.
        handled = [b for b in report.bundles if self._leaving.get(b.job) != (name, b.epoch)]
        host.acks += [Ack(b.job, b.epoch, b.step) for b in handled]
        for failure in report.failures:
            self.commits.failure(failure, name)
            host.acks.append(Ack(failure.job, failure.epoch, failure.step, is_failure=True))
        for arrival in report.arrivals:
            detail = f"step={arrival.step} pause_s={arrival.pause_s:.3f}"
            self._ownership.event("migrated", job=arrival.job, host=name, epoch=arrival.epoch, detail=detail)
            reason = self._reasons.pop(arrival.job, "policy")
            self._metrics.seconds("mlora_migration_pause_seconds", arrival.pause_s, reason=reason)
            self._metrics.count("mlora_job_migrations", reason=reason)

    def _take_progress(self, name: str, progress: Iterable[Progress]) -> list[JobEntry]:
        """Answers the jobs that have started there."""
        shown = {(p.job, p.epoch): p for p in progress}
        started = []
        for job in self.jobs.on(name):
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

    def _start(self, jobs: Sequence[JobEntry], numerics: str) -> None:
        if jobs:
            self._db.start_jobs([(j.name, j.record.epoch) for j in jobs], numerics)
        for job in jobs:
            self.jobs.change(job, state=JobState.TRAINING, numerics=job.record.numerics or numerics)

    def _note_recovery(self, job: JobEntry) -> None:
        """The first step beyond the last bundle of a job whose host was lost."""
        if job.lost_s is not None and job.num_uncommitted > 0:
            took_s, job.lost_s = self._clock.elapsed_s() - job.lost_s, None
            self._metrics.seconds("mlora_recovery_seconds", took_s, cause=job.lost_cause)
            detail = f"seconds={took_s:.2f} step={job.record.step + job.num_uncommitted}"
            self._ownership.event(
                "recovered", job=job.name, host=job.record.host, epoch=job.record.epoch, detail=detail
            )

    # -- what others see

    def view(self, pending: tuple[HostView, ...] = ()) -> ClusterView:
        """What a policy may know."""
        now_s = self._clock.now_s()
        return ClusterView(
            now_s=now_s,
            hosts=host_views(self.hosts, self.jobs),
            adapters=adapter_views(self.jobs.open(), now_s),
            pending_hosts=pending,
            prices=tuple((t.name, t.price_per_hour) for t in self._host_types),
            host_types=self._host_types,
            step_times=self._learner.known(),
        )

    def is_done(self, names: Sequence[str] = ()) -> bool:
        return all(j.record.state.is_final for j in self.jobs.named(names))

    def is_at_rest(self, names: Sequence[str] = ()) -> bool:
        """None of these jobs is on a host, or wants to be."""
        moving = (*ON_A_HOST, JobState.QUEUED)
        return all(j.record.state not in moving for j in self.jobs.named(names))

    def records(self, names: Sequence[str] = ()) -> list[JobRecord]:
        return [j.record for j in self.jobs.named(names)]

    def status(self, names: Sequence[str] = (), phase: str = "training", error: str = "") -> RunStatus:
        elapsed_s = self._clock.elapsed_s() - self._started_s
        reports = [h.report for h in self.hosts.values()]
        return run_status(self.jobs.named(names), reports, elapsed_s, phase, error)
