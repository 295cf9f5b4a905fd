"""How hosts come and go: what the autoscaler wants is launched, unless its base is in trouble; who goes is ended."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.hosts.launch_backoff import LaunchBackoff
from mlora_ray.control.hosts.managed_host import HostState, HostTable, ManagedHost
from mlora_ray.control.jobs.state import JobEntry
from mlora_ray.control.metrics import Metrics
from mlora_ray.control.transport import HOST_PREFIX, Transport
from mlora_ray.policies.scaling import autoscale
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import (
    BaseSpec,
    ClusterView,
    DrainHost,
    HostSettings,
    HostType,
    HostView,
    LaunchHost,
)
from mlora_ray.types.records import HostRecord

log = logging.getLogger(__name__)


class Launcher:
    """Adds to and takes from `hosts`, and keeps the database's in step."""

    def __init__(
        self,
        transport: Transport,
        database: ControlDatabase,
        settings: ServiceSettings,
        clock: Clock,
        metrics: Metrics,
        hosts: HostTable,
    ) -> None:
        self._transport, self._db, self._settings = transport, database, settings
        self._clock, self._metrics, self._hosts = clock, metrics, hosts
        self._types = {t.name: t for t in settings.host_types}
        self._bases: dict[str, BaseSpec] = {}
        self._cooling: list[tuple[float, HostView]] = []  # nodes that outlive their hosts
        self._state = autoscale.AutoscaleState()
        self.backoff = LaunchBackoff()

    def adopt(self) -> None:
        """Take over the hosts that the database knows; those that cannot be found are lost at the next round."""
        records = self._db.hosts(is_gone_included=True)
        for record in records:
            if record.state != "gone":
                host_type = self._types.get(record.settings.host_type) or type_of(record)
                connection = self._transport.adopt(record.actor_name)
                host = ManagedHost(record.settings, host_type, connection, self._clock.elapsed_s())
                host.was_alive = record.state != "starting"
                host.drained_why = record.why if record.state == "draining" else ""
                self._hosts.add(host)
        known = {(r.settings.host_type, r.numerics) for r in records if r.numerics}
        self._state = autoscale.AutoscaleState(numerics=tuple(sorted(known)))

    def decide(self, view: ClusterView, jobs: Iterable[JobEntry], may_launch: bool) -> list[str]:
        """Launch what the autoscaler wants; answers the hosts that it wants drained."""
        for job in jobs:
            self._bases.setdefault(job.record.spec.base.id, job.record.spec.base)
        actions, self._state = autoscale.decide(view, self._settings.autoscale, self._state)
        now_s = self._clock.elapsed_s()
        wanted = [a for a in actions if isinstance(a, LaunchHost) and may_launch and a.base in self._bases]
        for action in wanted:
            if self.backoff.may_launch(action.base, now_s):
                self._launch(action)
        return [action.host for action in actions if isinstance(action, DrainHost)]

    def _launch(self, action: LaunchHost) -> None:
        host_type = self._types[action.host_type]
        name = f"{host_type.name}-{self._db.next_host_number()}"
        settings = host_settings(self._settings, name, host_type, self._bases[action.base])
        self._db.add_host(settings, settings.actor_name, self._clock.now_s())
        self._metrics.count("mlora_host_launches", host_type=host_type.name)
        connection = self._transport.launch(settings)
        self._hosts.add(ManagedHost(settings, host_type, connection, self._clock.elapsed_s()))
        reused = next((c for c in self._cooling if c[1].host_type == host_type.name), None)
        if reused:
            self._cooling.remove(reused)

    def call_off(self, name: str) -> None:
        """End a host that has not joined yet: nobody needs it, or it does not start. One adopted may have jobs."""
        host = self._hosts.get(name)
        if host is not None and not host.was_alive:
            self.end_host(name, "called off before it had started")

    def end_host(self, name: str, why: str) -> None:
        """The last thing of a host. Where the database is away it stays in the table, and ends at a later tick."""
        self._db.set_host_state(name, "gone", self._clock.now_s(), why)
        host = self._hosts.remove(name)
        host.connection.stop()
        outlives_s = self._settings.autoscale.node_idle_timeout_s
        if outlives_s > 0:
            self._cooling.append((self._clock.elapsed_s() + outlives_s, host.view("draining")))
        log.warning("gone host=%s why=%s", name, why)

    def pending(self) -> tuple[HostView, ...]:
        """Hosts that have not loaded their base, and nodes that outlive their hosts and still cost money."""
        now_s = self._clock.elapsed_s()
        self._cooling = [c for c in self._cooling if c[0] > now_s]
        starting = tuple(host.view("alive") for host in self._hosts.in_state(HostState.STARTING))
        return (*starting, *(view for _, view in self._cooling))


def host_settings(ours: ServiceSettings, name: str, host_type: HostType, base: BaseSpec) -> HostSettings:
    """What a new host is started with."""
    return HostSettings(
        id=name,
        base=base,
        bundle_root=ours.bundle_root,
        page_dir=ours.page_root,
        device=host_type.device,
        threads=host_type.threads,
        memory_limit_bytes=host_type.memory_limit_bytes,
        adapter_memory_bytes=host_type.adapter_memory_bytes,
        token_budget=host_type.token_budget,
        memory=ours.memory_of(base.id, host_type.device),
        host_type=host_type.name,
        num_cpus=host_type.num_cpus,
        num_gpus=host_type.num_gpus,
        labels=host_type.labels,
        save_attempts=ours.save_attempts,
        max_uncommitted_steps=ours.max_uncommitted_steps,
        probe_uri=ours.probe_uri,
        service=ours.name,
        actor_name=f"{HOST_PREFIX}{ours.name}/{name}/{uuid.uuid4().hex[:8]}",
    )


def type_of(record: HostRecord) -> HostType:
    """The type of a host whose settings no longer name it."""
    s = record.settings
    return HostType(name=s.host_type, device=s.device, num_cpus=s.num_cpus, num_gpus=s.num_gpus, labels=s.labels)
