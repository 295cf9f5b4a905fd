"""What people see of hosts: where each stands, what all have used, and why a job has none."""

from __future__ import annotations

import logging

from mlora_ray.control.hosts.managed_host import HostState, HostTable, ManagedHost
from mlora_ray.control.jobs.state import JobEntry
from mlora_ray.control.transport import HostGone
from mlora_ray.types import HostUsage
from mlora_ray.types.records import HostRecord
from mlora_ray.types.status import HostStatus

log = logging.getLogger(__name__)


def host_status(host: ManagedHost, num_jobs: int, now_s: float, trouble: str) -> HostStatus:
    """A host that is not gone. `trouble`: what the last host of its base ended of."""
    report, is_living = host.report, host.is_living
    return HostStatus(
        id=host.name,
        host_type=host.type.name,
        base=host.base,
        state=host.state,
        node_id=host.node_id,
        node_ip=host.node_ip,
        pid=host.info.pid if host.info else 0,
        device_type=host.device_type,
        is_spot=host.type.is_spot,
        num_jobs=num_jobs,
        tokens_per_s=report.tokens_per_s,
        memory_bytes=report.memory_bytes,
        memory_limit_bytes=report.memory_limit_bytes,
        alive_s=now_s - host.since_s,
        stalled_s=report.stalled_s,
        row_tokens=report.row_tokens,
        row_why=report.row_why,
        step_time_drift=host.timing.drift,
        detail=report.warning if is_living else _stage(host) + (f"; the one before it: {trouble}" if trouble else ""),
    )


def gone_status(record: HostRecord) -> HostStatus:
    """A host that is gone, from the database."""
    began_s = record.joined_at_s or record.launched_at_s
    return HostStatus(
        id=record.settings.id,
        host_type=record.settings.host_type,
        base=record.settings.base.id,
        state="gone",
        node_id=record.node_id,
        node_ip=record.node_ip,
        pid=record.pid,
        device_type=record.settings.device,
        alive_s=(record.gone_at_s or began_s) - began_s,
        detail=record.why,
    )


def why_waits(job: JobEntry, hosts: HostTable, now_s: float, trouble: str) -> str:
    """Why a queued job has no host, in a few words. `trouble`: why hosts of its base are not launched."""
    left_s = job.waits_until_s - now_s
    if left_s > 0:
        return f"its files could not be read; again in {left_s:.0f} s"
    alive = [h for h in hosts.in_state(HostState.ALIVE) if h.base == job.base]
    if any(job.numerics in ("", h.numerics) for h in alive):
        return "the policy has not placed it yet"
    starting = [h for h in hosts.in_state(HostState.STARTING) if h.base == job.base]
    if starting:
        return f"host {starting[0].name} {_stage(starting[0])}"
    if alive:
        return "its bits need a host of other numerics than those that are alive"
    return trouble or "no host of its base yet, and none may be launched"


def usage(hosts: HostTable) -> HostUsage:
    """Together: CPU seconds and the largest peak."""
    used = []
    for host in hosts.living():
        try:
            used.append(host.connection.usage())
        except HostGone as error:
            log.warning("host=%s usage unknown: %s", host.name, error)
    return HostUsage(sum(u.cpu_s for u in used), max((u.peak_bytes for u in used), default=0))


def _stage(host: ManagedHost) -> str:
    """What a host that has not joined is at."""
    if host.state is HostState.FENCED:
        return "ends"
    if host.connection.is_placed():
        return "loads its base"
    asked = host.settings
    cpus = f"{asked.num_cpus:g} CPU{'s' if asked.num_cpus != 1 else ''}"
    gpus = f" and {asked.num_gpus:g} GPU" if asked.num_gpus else ""
    labels = ", ".join(f"{k}={v}" for k, v in asked.labels)
    return f"waits for a node with {cpus}{gpus} free" + (f" ({labels})" if labels else "")
