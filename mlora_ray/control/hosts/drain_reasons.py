"""Which hosts everybody has to leave, and why: draining nodes, leaks, steps that are done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.hosts.managed_host import HostState, HostTable, ManagedHost


class DrainReason(NamedTuple):
    host: ManagedHost
    why: str
    leaves_at_s: float | None = None  # its node does (Unix epoch, s)


def drain_reasons(
    hosts: HostTable, leaving_nodes: Mapping[str, float], settings: ServiceSettings, clock: Clock
) -> list[DrainReason]:
    """Of the living hosts; those that drain already are named again."""
    reasons: list[DrainReason] = []
    for host in hosts.living():
        report, leaves_at_s = host.report, leaving_nodes.get(host.node_id)
        if leaves_at_s is not None:
            why = f"node {host.node_id[:8]} leaves in {leaves_at_s - clock.now_s():.0f} s"
            reasons.append(DrainReason(host, why, leaves_at_s))
        elif host.leaks(settings.memory_recycle_share, clock.elapsed_s()):
            used = f"{report.memory_bytes} of {report.memory_limit_bytes} bytes"
            reasons.append(DrainReason(host, f"recycled: its memory grows, {used}"))
        elif _has_done_its_steps(host, hosts, {r.host.name for r in reasons}, settings.host_max_steps):
            reasons.append(DrainReason(host, f"recycled after {report.num_steps} steps"))
        elif host.drained_why:
            reasons.append(DrainReason(host, host.drained_why))
    return reasons


def _has_done_its_steps(host: ManagedHost, hosts: HostTable, leaving: set[str], most: int) -> bool:
    """One host of a base after the other, so that somebody trains; but none does twice as many. 0: no bound."""
    num_steps = host.report.num_steps
    if not 0 < most <= num_steps:
        return False
    others = [other for other in hosts if other is not host and other.base == host.base]
    others_change = any(other.state is not HostState.ALIVE or other.name in leaving for other in others)
    return not others_change or num_steps >= 2 * most
