"""The hosts of a service over any transport: launch, tick, fence the dead, empty the leaving. Never imports ray.

    fleet.adopt()        # once: hosts that a placement before this one left
    fleet.tick()         # one round: who is ready, how many there should be, one decision, one call to every host

What each part finds comes back as values; what follows from it is done here.
"""

from __future__ import annotations

from collections.abc import Iterable

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.hosts import host_status
from mlora_ray.control.hosts.drain_reasons import drain_reasons
from mlora_ray.control.hosts.exchange import PROCESS, Exchange, LostHost, died
from mlora_ray.control.hosts.launcher import Launcher
from mlora_ray.control.hosts.managed_host import HostState, HostTable, ManagedHost
from mlora_ray.control.hosts.migrations import EndedMove, Migrations
from mlora_ray.control.jobs.moves import Move
from mlora_ray.control.jobs.placement import Placement
from mlora_ray.control.jobs.state import JobEntry
from mlora_ray.control.metrics import Metrics
from mlora_ray.control.transport import HostConnection, HostGone, HostRefused, Transport
from mlora_ray.errors import BaseDiffers, MloraError
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import ClusterView, HostInfo, HostUsage, Tick
from mlora_ray.types.hosts import BASE_FILES
from mlora_ray.types.records import Event
from mlora_ray.types.status import HostStatus

STOP_TIMEOUT_S = 30.0


class Fleet:
    """One thread at a time calls it."""

    def __init__(
        self,
        transport: Transport,
        database: ControlDatabase,
        hosts: HostTable,
        placement: Placement,
        settings: ServiceSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._transport, self._db, self._hosts, self._placement = transport, database, hosts, placement
        self._settings, self._clock, self._metrics = settings, clock, metrics
        self._launcher = Launcher(transport, database, settings, clock, metrics, hosts)
        self._exchange = Exchange(transport, hosts, settings, clock)
        self._migrations = Migrations(transport, hosts)
        self.decision_s = 0.0  # of the last round: policies and what they changed in the database
        self.error = ""  # with `ends_on_trouble`: why the service cannot go on

    # -- one round

    def adopt(self) -> None:
        """Take over the hosts that the database knows; those that cannot be found are lost at the next round."""
        self._launcher.adopt()

    def tick(self) -> None:
        """Raises DatabaseError; what was not absorbed by then comes again with the next answers."""
        self._admit_ready()
        self._end_stranded()
        self._drain_leaving()
        moves = self._decide()
        self._end_moves(self._migrations.start(moves))
        self._lose(self._exchange.send(self._ticks()))
        self._exchange.wait()
        self._hear()
        self._end_moves(self._migrations.follow())
        self._retire_empty()

    def _admit_ready(self) -> None:
        for host in self._hosts.in_state(HostState.STARTING):
            try:
                info = host.connection.info()
                if info is not None:
                    self._join(host, info)
                elif host.was_alive and self._clock.elapsed_s() - host.since_s > self._settings.host_timeout_s:
                    self._lose([LostHost(host, f"not found within {self._settings.host_timeout_s:g} s", PROCESS)])
            except HostRefused as error:
                self._refuse(host, str(error))
            except HostGone as error:
                self._lose([died(host, str(error))])

    def _join(self, host: ManagedHost, info: HostInfo) -> None:
        try:
            self._db.bind_base(info.base, info.base_sha256, info.id, info.node_ip)
            if info.base_files_sha256:
                self._db.bind_base(f"{info.base}{BASE_FILES}", info.base_files_sha256, info.id, info.node_ip)
        except BaseDiffers as error:
            raise HostRefused(str(error)) from error
        self._db.bind_numerics(info.numerics, dict(info.facts), info.device_type, host.settings.threads)
        self._db.host_joined(info, self._clock.now_s())
        self._placement.host_joined(host, info)

    def _end_stranded(self) -> None:
        """What was left half done: a placement before this one, or the database, ended between two writes."""
        for name in self._placement.jobs.hosts() - self._hosts.names():
            self._placement.host_lost(name, "it is gone", PROCESS)
        for host in self._hosts.in_state(HostState.FENCED):
            self._launcher.end_host(host.name, "lost; the database was away when it was")

    def _drain_leaving(self) -> None:
        nodes = self._transport.draining()
        for host, why, leaves_at_s in drain_reasons(self._hosts, nodes, self._settings, self._clock):
            self._drain(host, why, leaves_at_s)

    def _decide(self) -> list[Move]:
        """How many hosts there should be, then who trains where. Answers the states that have to travel."""
        began_s = self._clock.elapsed_s()
        view = self.view()
        self._scale(view)
        moves = self._placement.decide(view)
        self.decision_s = self._clock.elapsed_s() - began_s
        return moves

    def _scale(self, view: ClusterView) -> None:
        for name in self._launcher.decide(view, self._placement.jobs.open(), may_launch=not self.error):
            if self._hosts.is_living(name):
                self._drain(self._hosts[name], "no longer needed")
            else:
                self._launcher.call_off(name)
        self._transport.request([h.settings for h in self._hosts if h.is_wanted])

    def _ticks(self) -> list[tuple[ManagedHost, Tick]]:
        return [(host, self._placement.tick_for(host)) for host in self._exchange.unasked()]

    def _hear(self) -> None:
        heard = self._exchange.hear()
        for host, detail in heard.skewed:
            self._event("clock_skew", host, detail)
        self._placement.reports.absorb(heard.reports)
        self._lose(heard.lost)

    def _end_moves(self, ended: Iterable[EndedMove]) -> None:
        for job, epoch, why in ended:
            self._placement.moves.ended(job, epoch, why)

    def _retire_empty(self) -> None:
        sources = self._migrations.sources
        for host in self._hosts.in_state(HostState.DRAINING):
            if host.name not in sources and not self._placement.jobs.on(host.name):
                self._placement.host_left(host, "drained")
                self._launcher.end_host(host.name, "drained")

    # -- the end of a host

    def drain(self, name: str, why: str) -> None:
        """Everybody off this living host, then it ends."""
        self._drain(self._hosts[name], why)

    def _drain(self, host: ManagedHost, why: str, leaves_at_s: float | None = None) -> None:
        if not host.is_draining:
            self._db.set_host_state(host.name, "draining", self._clock.now_s(), why)
        self._placement.drain(host, why, leaves_at_s)

    def _lose(self, lost: Iterable[LostHost]) -> None:
        for host, why, cause in lost:
            self._placement.host_lost(host.name, why, cause)
            self._launcher.end_host(host.name, why)
            self._metrics.count("mlora_host_losses", cause=cause, host_type=host.type.name)
            commits = self._placement.commits.num_commits
            self._give_up(self._launcher.backoff.lost(host.base, why, commits, self._clock.elapsed_s()))

    def _refuse(self, host: ManagedHost, why: str) -> None:
        self._event("host_refused", host, why)
        self._placement.host_lost(host.name, why, "refused")
        self._launcher.end_host(host.name, why)
        self._give_up(self._launcher.backoff.refused(host.base, why, self._clock.elapsed_s()))

    def _give_up(self, why: str) -> None:
        if self._settings.ends_on_trouble and why:
            self.error = why

    def stop(self) -> None:
        """End every host."""
        hosts = list(self._hosts)
        for host in hosts:
            self._launcher.end_host(host.name, "the service stopped")
        self._transport.request([])
        for host in hosts:
            host.connection.join(STOP_TIMEOUT_S)

    # -- for others

    def view(self) -> ClusterView:
        """What the policies see now."""
        return self._placement.view(self._launcher.pending())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why jobs of a base wait for a host."""
        return self._launcher.backoff.warnings(self._clock.elapsed_s())

    @property
    def clock_skew_s(self) -> float:
        """The furthest of the last round."""
        return self._exchange.clock_skew_s

    @property
    def infos(self) -> dict[str, HostInfo]:
        """Living hosts."""
        return {host.name: host.info for host in self._hosts.living() if host.info is not None}

    @property
    def num_wanted(self) -> int:
        """Hosts there are and come, without those that leave."""
        return sum(host.is_wanted for host in self._hosts)

    def statuses(self, is_gone_included: bool = False) -> list[HostStatus]:
        """Every host that is not gone; those that are, from the database."""
        gone = [r for r in self._db.hosts(is_gone_included=True) if r.state == "gone"] if is_gone_included else []
        return [*map(host_status.gone_status, gone), *map(self._status, self._hosts)]

    def _status(self, host: ManagedHost) -> HostStatus:
        num_jobs, trouble = len(self._placement.jobs.on(host.name)), self._launcher.backoff.why(host.base)
        return host_status.host_status(host, num_jobs, self._clock.elapsed_s(), trouble)

    def why_waits(self, job: JobEntry) -> str:
        """Why a queued job has no host, in a few words."""
        trouble = self._launcher.backoff.why(job.record.spec.base.id)
        return host_status.why_waits(job, self._hosts, self._clock.now_s(), trouble)

    def usage(self) -> HostUsage:
        """Of all hosts together."""
        return host_status.usage(self._hosts)

    def connection_to(self, base: str) -> HostConnection:
        """A host of this base. Raises MloraError when there is none."""
        for host in self._hosts.living():
            if host.base == base:
                return host.connection
        raise MloraError(f"no host of {base} is alive")

    def _event(self, kind: str, host: ManagedHost, detail: str) -> None:
        self._db.add_event(Event(at_s=self._clock.now_s(), kind=kind, host=host.name, detail=detail))
