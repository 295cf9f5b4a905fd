"""The hosts of a service over any transport: launch, tick, fence the dead, empty the leaving. Never imports ray.

    fleet.adopt()        # once: hosts that a placement before this one left
    fleet.tick()         # one round: who is ready, how many there should be, one decision, one call to every host

A host that does not answer holds nobody up: it is asked nothing more, and after `host_timeout_s` it is fenced off.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.hosts.host_status import gone_status
from mlora_ray.control.hosts.launcher import Launcher
from mlora_ray.control.hosts.managed_host import ManagedHost
from mlora_ray.control.jobs.placement import Move, Placement
from mlora_ray.control.jobs.state import JobEntry
from mlora_ray.control.metrics import Metrics
from mlora_ray.control.transport import HostConnection, HostGone, HostRefused, StateTransfer, Transport
from mlora_ray.errors import BaseDiffers, MloraError
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import (
    ClusterView,
    HostInfo,
    HostReport,
    HostUsage,
)
from mlora_ray.types.hosts import BASE_FILES
from mlora_ray.types.records import Event
from mlora_ray.types.status import HostStatus

MAX_SKEW_S = 5.0
STOP_TIMEOUT_S = 30.0
SILENT = "no answer"
STALLED = "no step ended"

log = logging.getLogger(__name__)


class Fleet:
    """One thread at a time calls it."""

    def __init__(
        self,
        transport: Transport,
        database: ControlDatabase,
        placement: Placement,
        settings: ServiceSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._transport, self._db, self._placement = transport, database, placement
        self._settings, self._clock, self._metrics = settings, clock, metrics
        self._members: dict[str, ManagedHost] = {}
        self._launcher = Launcher(transport, database, settings, clock, metrics, self._members)
        self._moving: list[tuple[Move, StateTransfer]] = []
        self.decision_s = 0.0  # of the last round: policies and what they changed in the database
        self.clock_skew_s = 0.0  # the furthest of the last round
        self.error = ""  # with `ends_on_trouble`: why the service cannot go on

    # -- one round

    def adopt(self) -> None:
        """Take over the hosts that the database knows; those that cannot be found are lost at the next round."""
        self._launcher.adopt()

    def tick(self) -> None:
        """Raises DatabaseError; what was not absorbed by then comes again with the next answers."""
        self._admit_ready()
        self._requeue_stranded()
        self._note_leaving()
        began_s = self._clock.elapsed_s()
        view = self.view()
        self._scale(view)
        moves = self._placement.decide(view)
        self.decision_s = self._clock.elapsed_s() - began_s
        self._start_moves(moves)
        self._tell()
        asked = [m.line for m in self._members.values() if m.asked_s is not None]
        self._transport.wait(asked, self._settings.tick_s / 2)
        self._hear()
        self._follow_moves()
        self._retire_empty()

    def _admit_ready(self) -> None:
        for name, member in list(self._members.items()):
            if member.info is not None:
                continue
            try:
                info = member.line.info()
                if info is not None:
                    self._join(member, info)
                elif member.was_alive and self._silent_s(member.since_s) > self._settings.host_timeout_s:
                    self._lose(name, f"not found within {self._settings.host_timeout_s:g} s")
            except HostRefused as error:
                self._refuse(name, str(error))
            except HostGone as error:
                self._lose(name, str(error))

    def _requeue_stranded(self) -> None:
        """What was left half done: a placement before this one, or the database, ended between two writes."""
        for host in self._placement.jobs.hosts() - self._members.keys():
            self._placement.host_lost(host, "it is gone", "process")
        for name, member in list(self._members.items()):
            if member.info is not None and name not in self._placement.hosts:
                self._launcher.end_host(name, "lost; the database was away when it was")

    def _join(self, member: ManagedHost, info: HostInfo) -> None:
        try:
            self._db.bind_base(info.base, info.base_sha256, info.id, info.node_ip)
            if info.base_files_sha256:
                self._db.bind_base(f"{info.base}{BASE_FILES}", info.base_files_sha256, info.id, info.node_ip)
        except BaseDiffers as error:
            raise HostRefused(str(error)) from error
        self._db.bind_numerics(info.numerics, dict(info.facts), info.device_type, member.settings.threads)
        self._db.host_joined(info, self._clock.now_s())
        self._placement.host_joined(info, member.type)
        member.info = info
        if member.drains:
            self.drain(info.id, member.drains)

    def _note_leaving(self) -> None:
        """Draining nodes, hosts that leak and hosts that have done their steps: everybody off."""
        nodes = self._transport.draining()
        for name, member in self._joined().items():
            node = member.info.node_id if member.info else ""
            report = self._placement.hosts[name].report
            if node in nodes:
                self.drain(name, f"node {node[:8]} leaves in {nodes[node] - self._clock.now_s():.0f} s", nodes[node])
            elif member.leaks(report, self._settings.memory_recycle_share, self._clock.elapsed_s()):
                used = f"{report.memory_bytes} of {report.memory_limit_bytes} bytes"
                self.drain(name, f"recycled: its memory grows, {used}")
            elif self._has_done_its_steps(member, report.num_steps):
                self.drain(name, f"recycled after {report.num_steps} steps")

    def _has_done_its_steps(self, member: ManagedHost, num_steps: int) -> bool:
        """One host of a base after the other, so that somebody trains; but none does twice as many."""
        most = self._settings.host_max_steps
        others = [(n, m) for n, m in self._members.items() if m is not member and m.base == member.base]
        others_change = any(m.info is None or self._placement.hosts[n].is_draining for n, m in others)
        return 0 < most <= num_steps and (not others_change or num_steps >= 2 * most)

    def drain(self, host: str, why: str, leaves_at_s: float | None = None) -> None:
        """Everybody off this host, then it ends."""
        if not self._placement.hosts[host].is_draining:
            self._db.set_host_state(host, "draining", self._clock.now_s(), why)
        self._placement.drain(host, why, leaves_at_s)

    # -- how many

    def _scale(self, view: ClusterView) -> None:
        jobs = self._placement.jobs.open()
        for name in self._launcher.decide(view, jobs, may_launch=not self.error):
            if name in self._placement.hosts:
                self.drain(name, "no longer needed")
            else:
                self._launcher.call_off(name)
        draining = {name for name, host in self._placement.hosts.items() if host.is_draining}
        self._transport.request([m.settings for name, m in self._members.items() if name not in draining])

    # -- tell and hear

    def _tell(self) -> None:
        for name, member in self._joined().items():
            if member.asked_s is not None:
                continue
            try:
                member.line.send(self._placement.tick_for(name))
                member.asked_s = self._clock.elapsed_s()
            except HostGone as error:
                self._lose(name, str(error))

    def _hear(self) -> None:
        self.clock_skew_s = 0.0
        heard: list[tuple[str, HostReport]] = []
        for name, member in self._joined().items():
            if member.asked_s is None:
                continue
            try:
                report = member.line.answer()
            except HostGone as error:
                self._lose(name, str(error))
                continue
            if report is not None:
                self._check_clock(member, report, self._silent_s(member.asked_s))
                member.asked_s = None
                heard.append((name, report))
            elif self._silent_s(member.asked_s) > self._settings.host_timeout_s:
                self._lose(name, f"{SILENT} for {self._settings.host_timeout_s:g} s")
        self._placement.absorb(heard)
        for name, report in heard:
            if 0 < self._settings.stall_timeout_s < report.stalled_s:
                self._lose(name, f"{STALLED} for {report.stalled_s:.0f} s, though it answers")

    def _check_clock(self, member: ManagedHost, report: HostReport, took_s: float) -> None:
        """It answered at some time in the `took_s` seconds until now; only what lies outside them is skew."""
        early_s = report.now_s - self._clock.now_s() if report.now_s else 0.0
        skew_s = early_s if early_s > 0 else min(0.0, early_s + took_s)
        self.clock_skew_s = max(self.clock_skew_s, skew_s, key=abs)
        if abs(skew_s) > MAX_SKEW_S and not member.is_skew_told:
            member.is_skew_told = True
            assert member.info is not None
            detail = (
                f"the clock of node {member.info.node_ip} is {skew_s:+.1f} s off; nothing depends on it but figures"
            )
            self._event("clock_skew", report.host, detail)

    def _start_moves(self, moves: Sequence[Move]) -> None:
        for move in moves:
            job, epoch = move.assignment.spec.name, move.assignment.epoch
            source, target = self._members.get(move.source), self._members.get(move.target)
            if source is None or target is None:
                self._placement.move_ended(job, epoch, "its host is gone")
                continue
            try:
                moving = self._transport.move(source.line, target.line, move.assignment, move.old_epoch)
            except HostGone as error:
                self._placement.move_ended(job, epoch, str(error))
                continue
            self._moving.append((move, moving))

    def _follow_moves(self) -> None:
        going = []
        for move, moving in self._moving:
            outcome = moving.outcome()
            if outcome is None:
                going.append((move, moving))
            else:
                self._placement.move_ended(move.assignment.spec.name, move.assignment.epoch, outcome)
        self._moving = going

    def _retire_empty(self) -> None:
        sources = {move.source for move, _ in self._moving}  # their states are still on them
        for name in self._joined():
            is_empty = name not in sources and not self._placement.jobs.on(name)
            if self._placement.hosts[name].is_draining and is_empty:
                self._placement.host_left(name, "drained")
                self._launcher.end_host(name, "drained")

    # -- the end of a host

    def _lose(self, name: str, why: str) -> None:
        member, cause = self._members[name], _cause(why)
        self._placement.host_lost(name, why, cause)
        self._launcher.end_host(name, why)
        self._metrics.count("mlora_host_losses", cause=cause, host_type=member.type.name)
        commits = self._placement.commits.num_commits
        self._give_up(self._launcher.troubles.lost(member.base, why, commits, self._clock.elapsed_s()))

    def _refuse(self, name: str, why: str) -> None:
        member = self._members[name]
        self._event("host_refused", name, why)
        self._placement.host_lost(name, why, "refused")
        self._launcher.end_host(name, why)
        self._give_up(self._launcher.troubles.refused(member.base, why, self._clock.elapsed_s()))

    def _give_up(self, why: str) -> None:
        if self._settings.ends_on_trouble and why:
            self.error = why

    # -- for others

    def view(self) -> ClusterView:
        """What the policies see now."""
        return self._placement.view(self._launcher.pending())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why jobs of a base wait for a host."""
        return self._launcher.troubles.warnings(self._clock.elapsed_s())

    @property
    def infos(self) -> dict[str, HostInfo]:
        """Hosts that have loaded their base."""
        return {name: m.info for name, m in self._members.items() if m.info is not None}

    def statuses(self, is_gone_included: bool = False) -> list[HostStatus]:
        """Every host that is not gone; those that are, from the database."""
        gone = [r for r in self._db.hosts(is_gone_included=True) if r.state == "gone"] if is_gone_included else []
        return [*map(gone_status, gone), *map(self._status, self._members.values())]

    def _status(self, member: ManagedHost) -> HostStatus:
        name = member.settings.id
        num_jobs, why = len(self._placement.jobs.on(name)), self._launcher.troubles.why(member.base)
        return member.status(self._placement.hosts.get(name), num_jobs, self._clock.elapsed_s(), why)

    def why_waits(self, job: JobEntry) -> str:
        """Why a queued job has no host, in a few words."""
        left_s = job.waits_until_s - self._clock.now_s()
        if left_s > 0:
            return f"its files could not be read; again in {left_s:.0f} s"
        base = job.record.spec.base.id
        numerics = job.record.numerics
        alive = [h for h in self._placement.hosts.values() if h.info.base == base and not h.is_draining]
        if any(numerics in ("", h.info.numerics) for h in alive):
            return "the policy has not placed it yet"
        starting = [m for n, m in self._members.items() if n not in self._placement.hosts and m.base == base]
        if starting:
            return f"host {starting[0].settings.id} {starting[0].stage()}"
        if alive:
            return "its bits need a host of other numerics than those that are alive"
        return self._launcher.troubles.why(base) or "no host of its base yet, and none may be launched"

    @property
    def num_wanted(self) -> int:
        """Hosts there are and come, without those that leave."""
        return len(self._members) - sum(h.is_draining for h in self._placement.hosts.values())

    def line_of(self, base: str) -> HostConnection:
        """A host of this base. Raises MloraError when there is none."""
        for member in self._joined().values():
            if member.settings.base.id == base:
                return member.line
        raise MloraError(f"no host of {base} is alive")

    def usage(self) -> HostUsage:
        """Together: CPU seconds and the largest peak."""
        used = []
        for name, member in self._joined().items():
            try:
                used.append(member.line.usage())
            except HostGone as error:
                log.warning("host=%s usage unknown: %s", name, error)
        return HostUsage(sum(u.cpu_s for u in used), max((u.peak_bytes for u in used), default=0))

    def stop(self) -> None:
        """End every host."""
        members = list(self._members.values())
        for member in members:
            self._launcher.end_host(member.settings.id, "the service stopped")
        self._transport.request([])
        for member in members:
            member.line.join(STOP_TIMEOUT_S)

    def _joined(self) -> dict[str, ManagedHost]:
        return {name: m for name, m in self._members.items() if name in self._placement.hosts}

    def _silent_s(self, since_s: float) -> float:
        return self._clock.elapsed_s() - since_s

    def _event(self, kind: str, host: str, detail: str) -> None:
        self._db.add_event(Event(at_s=self._clock.now_s(), kind=kind, host=host, detail=detail))


def _cause(why: str) -> str:
    """A few words for a metric."""
    if why.startswith((SILENT, STALLED)):
        return "silent"
    return "memory" if "OutOfMemory" in why or "out of memory" in why else "process"
