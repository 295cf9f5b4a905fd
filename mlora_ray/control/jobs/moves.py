"""Who changes hosts live: a job's state goes from host to host by hand, without a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mlora_ray.control.hosts.managed_host import HostState, HostTable
from mlora_ray.control.jobs.ownership import Ownership
from mlora_ray.control.jobs.state import JobEntry, JobTable
from mlora_ray.policies.compatibility import why_not
from mlora_ray.types import Assignment, JobState


class Move(NamedTuple):
    """A job's state goes from `source`, which trained it under `old_epoch`, to the host of `assignment`."""

    assignment: Assignment
    source: str
    target: str
    old_epoch: int


class WantedMove(NamedTuple):
    job: JobEntry
    target: str
    reason: str  # for metrics: policy | drain


class _Source(NamedTuple):
    """Where the state of a moving job comes from."""

    host: str
    epoch: int


class Moves:
    """Those under way, from the change of owner to the word that the state has arrived or has not."""

    def __init__(self, jobs: JobTable, hosts: HostTable, ownership: Ownership, storage: str) -> None:
        self._jobs, self._hosts, self._ownership, self._storage = jobs, hosts, ownership, storage
        self._sources: dict[str, _Source] = {}  # by job
        self._reasons: dict[str, str] = {}  # by job, until the target has announced it

    def off_draining_hosts(self) -> list[WantedMove]:
        """Every job of a draining host goes to the emptiest host that computes the same bits, else into the queue."""
        moves, load = [], {host.name: len(self._jobs.on(host.name)) for host in self._hosts.living()}
        alive = self._hosts.in_state(HostState.ALIVE)
        for host in self._hosts.in_state(HostState.DRAINING):
            for job in self._jobs.on(host.name):
                if job.is_moving or job.leaves_for is not None:
                    continue
                targets = [other.name for other in alive if not why_not(job, other)]
                if not targets:
                    job.leaves_for = JobState.QUEUED
                    continue
                target = min(targets, key=lambda name: (load[name], name))
                load[target] += 1
                moves.append(WantedMove(job, target, "drain"))
        return moves

    def start(self, wanted: Iterable[WantedMove]) -> list[Move]:
        """Change the owners of these; answers the states that have to travel. The first wish for a job counts."""
        first: dict[str, WantedMove] = {}
        for one in wanted:
            if not one.job.is_moving and one.job.leaves_for is None:
                first.setdefault(one.job.name, one)
        before = {name: (_Source(w.job.record.host, w.job.record.epoch), w.job.is_taken) for name, w in first.items()}
        self._ownership.reassign([(w.job, JobState.MIGRATING, w.target) for w in first.values()], "moving")
        started = []
        for name, (job, target, reason) in first.items():
            source, was_taken = before[name]
            if was_taken and job.record.epoch == source.epoch + 1:
                job.is_moving = True
                self._sources[name], self._reasons[name] = source, reason
                started.append(Move(self.assignment(job), source.host, target, source.epoch))
        return started

    def ended(self, job_name: str, epoch: int, why: str = "") -> None:
        """The state has arrived; or, with a reason, it has not: the job goes on there from its last bundle."""
        self._sources.pop(job_name, None)
        job = self._jobs.get(job_name)
        if job is None or job.record.epoch != epoch:
            return
        job.is_moving = False
        if why:
            detail = f"goes on from its bundle of step {job.record.step}: {why}"
            self._ownership.event("move_failed", job=job_name, host=job.record.host, epoch=epoch, detail=detail)

    def leaving(self, host: str) -> frozenset[tuple[str, int]]:
        """Jobs, each with its epoch there, whose states this host still has to give away."""
        return frozenset((job, source.epoch) for job, source in self._sources.items() if source.host == host)

    def take_reason(self, job: str) -> str:
        """Why a job moved that has arrived."""
        return self._reasons.pop(job, "policy")

    def assignment(self, job: JobEntry) -> Assignment:
        record = job.record
        out_uri = f"{self._storage}/{job.name}"
        return Assignment(spec=record.spec, epoch=record.epoch, bundle_uri=record.bundle_uri, out_uri=out_uri)
