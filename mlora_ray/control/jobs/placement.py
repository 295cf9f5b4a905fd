"""Placement without Ray: who trains where, and what every host is told.

    moves = placement.decide(placement.view())   # one decision of the policy, owners changed in the database
    tick = placement.tick_for(host)              # what this host has to know
    placement.reports.absorb(heard)              # commit bundles and failures of (host, report), keep progress
    placement.host_lost(host, why, cause)        # its jobs queue again under a new epoch
    placement.commands.pause(names)              # what users ask

The database is the truth; what is kept here is its mirror and is written through. Whoever changes a job's
owner bumps its epoch first, so an owner of before commits nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.hosts.managed_host import HostState, HostTable, ManagedHost
from mlora_ray.control.jobs.commands import Commands
from mlora_ray.control.jobs.commits import Commits
from mlora_ray.control.jobs.mirror import load_jobs, reread_jobs
from mlora_ray.control.jobs.moves import Move, Moves, WantedMove
from mlora_ray.control.jobs.ownership import Ownership
from mlora_ray.control.jobs.policy_guard import safe_decide
from mlora_ray.control.jobs.reports import Reports
from mlora_ray.control.jobs.state import JobTable
from mlora_ray.control.jobs.step_time_learner import StepLearner
from mlora_ray.control.jobs.views import adapter_views, host_views, run_status
from mlora_ray.control.metrics import Metrics
from mlora_ray.policies.contract import Policy
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.store.decision_log import DecisionLog
from mlora_ray.types import (
    ClusterView,
    HostInfo,
    HostView,
    JobState,
    Migrate,
    Pause,
    Place,
    PolicyState,
    Release,
    Tick,
)
from mlora_ray.types.records import JobRecord
from mlora_ray.types.status import RunStatus

log = logging.getLogger(__name__)


class Placement:
    """One policy over many hosts and jobs. Not thread-safe: one thread at a time calls it."""

    def __init__(
        self,
        database: ControlDatabase,
        hosts: HostTable,
        policy: Policy,
        settings: ServiceSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._db, self._policy, self._clock, self._metrics = database, policy, clock, metrics
        self._host_types = settings.host_types
        self._decisions = DecisionLog(settings.decisions_uri, settings.policy)
        self._learner = StepLearner(settings.step_times)
        self._started_s = clock.elapsed_s()
        self.policy_state = PolicyState()
        self.hosts, self.jobs = hosts, JobTable()
        self._ownership = Ownership(database, self.jobs, clock)
        self.commits = Commits(database, self.jobs, self._ownership, settings, clock, metrics)
        self.commands = Commands(database, self.jobs, hosts, self._ownership, self.commits, clock)
        self.moves = Moves(self.jobs, hosts, self._ownership, settings.storage)
        self.reports = Reports(
            database,
            self.jobs,
            hosts,
            self._ownership,
            self.commits,
            self.moves,
            self._learner,
            clock,
            metrics,
        )
        load_jobs(database, self.jobs)
        self.commits.doubt_files(self.jobs)

    def read_again(self) -> None:
        """After a write that raised and may have been done all the same: mirror what the rows say."""
        for job in reread_jobs(self._db, self.jobs):
            self.commits.mend_later(job)

    # -- hosts

    def host_joined(self, host: ManagedHost, info: HostInfo) -> None:
        detail = f"pid={info.pid} device={info.device_type} node={info.node_ip} numerics={info.numerics[:8]}"
        self._ownership.event("host_joined", host=info.id, detail=detail)
        host.join(info)

    def host_lost(self, host: str, why: str, cause: str) -> list[str]:
        """Fence a host off: its jobs queue again under a new epoch. Answers their names; `cause` is for metrics."""
        lost = self.jobs.on(host)
        for job in lost:
            job.lost_s, job.lost_cause = self._clock.elapsed_s(), cause
            self._metrics.count("mlora_lost_steps", job.num_uncommitted, cause=cause)
        self._ownership.reassign([(j, j.leaves_for or JobState.QUEUED, "") for j in lost], "requeued")
        self._ownership.event("host_lost", host=host, detail=why)
        if known := self.hosts.get(host):
            known.state = HostState.FENCED
        log.warning("lost host=%s jobs=%d why=%s", host, len(lost), why)
        return [j.name for j in lost]

    def host_left(self, host: ManagedHost, why: str) -> None:
        """An empty host goes."""
        self._ownership.event("host_left", host=host.name, detail=why)
        host.state = HostState.FENCED

    def drain(self, host: ManagedHost, why: str, leaves_at_s: float | None = None) -> None:
        """Nobody comes here any more, and everybody leaves (see `decide`)."""
        host.leaves_at_s = leaves_at_s if host.leaves_at_s is None else host.leaves_at_s
        if not host.is_draining:
            host.state = HostState.DRAINING
            self._ownership.event("host_drains", host=host.name, detail=why)

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
        drained = self.moves.off_draining_hosts()
        asked = [WantedMove(self.jobs[a.adapter], a.host, "policy") for a in actions if isinstance(a, Migrate)]
        return self.moves.start([*drained, *asked])

    def tick_for(self, host: ManagedHost) -> Tick:
        """Assignments not yet taken, releases, acknowledgements, and everything that this host owns."""
        mine = self.jobs.on(host.name)
        assignments = tuple(self.moves.assignment(j) for j in mine if not j.is_taken and not j.is_moving)
        releases = tuple(Release(j.name, j.record.epoch) for j in mine if j.leaves_for is not None and j.is_taken)
        acks, host.acks = tuple(host.acks), []
        owned = frozenset((j.name, j.record.epoch) for j in mine) | self.moves.leaving(host.name)
        return Tick(assignments, releases, acks, owned)

    # -- what others see

    def view(self, pending: tuple[HostView, ...] = ()) -> ClusterView:
        """What a policy may know."""
        now_s = self._clock.now_s()
        return ClusterView(
            now_s=now_s,
            hosts=host_views(self.hosts.living(), self.jobs),
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
        return not any(j.wants_to_train for j in self.jobs.named(names))

    def records(self, names: Sequence[str] = ()) -> list[JobRecord]:
        return [j.record for j in self.jobs.named(names)]

    def status(self, names: Sequence[str] = (), phase: str = "training", error: str = "") -> RunStatus:
        elapsed_s = self._clock.elapsed_s() - self._started_s
        reports = [host.report for host in self.hosts.living()]
        return run_status(self.jobs.named(names), reports, elapsed_s, phase, error)
