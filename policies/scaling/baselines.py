"""The plain ways to have hosts, as baselines: always the same number, and by the length of the queue. On demand only.

`scale(view, state) -> (actions, state')`, pure, for the first base of the work there is and the cheapest type for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlora_ray.policies.scaling.demand import open_jobs
from mlora_ray.types import ClusterView, DrainHost, HostType, HostView, LaunchHost


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyState:
    """Since when each idle host has been one too many."""

    spare_since: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedNumber:
    """`num_hosts` from the first job on, for good; a host that is lost is replaced."""

    num_hosts: int
    name = "fixed"

    def scale(self, view: ClusterView, state: SteadyState) -> tuple[list[LaunchHost | DrainHost], SteadyState]:
        missing = self.num_hosts - len(_staying(view))
        return [*_launches(view, missing)], state


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueThreshold:
    """A host for every `jobs_per_host` open jobs, `max_hosts` at most; an idle one goes after `down_delay_s`."""

    jobs_per_host: int = 2
    max_hosts: int = 16
    down_delay_s: float = 120.0
    name = "queue-threshold"

    def scale(self, view: ClusterView, state: SteadyState) -> tuple[list[LaunchHost | DrainHost], SteadyState]:
        hosts = _staying(view)
        needed = min(self.max_hosts, math.ceil(len(open_jobs(view)) / self.jobs_per_host))
        before = dict(state.spare_since)
        idle = [h.id for h in hosts if not h.group][: max(0, len(hosts) - needed)]
        since = {name: before.get(name, view.now_s) for name in idle}
        drained = [DrainHost(host=name) for name, at_s in since.items() if view.now_s - at_s >= self.down_delay_s]
        return [*drained, *_launches(view, needed - len(hosts))], SteadyState(spare_since=tuple(since.items()))


def _staying(view: ClusterView) -> list[HostView]:
    return [h for h in (*view.hosts, *view.pending_hosts) if h.state == "alive"]


def _launches(view: ClusterView, number: int) -> list[LaunchHost]:
    """So many hosts for the oldest job's base, of the cheapest on-demand type for its device."""
    if number <= 0 or not (jobs := open_jobs(view)):
        return []
    oldest = min(jobs, key=lambda j: (j.submitted_at_s, j.id))
    kinds: list[HostType] = [t for t in view.host_types if not t.is_spot and oldest.device_type in ("", t.device)]
    if not kinds:
        return []
    kind = min(kinds, key=lambda t: (t.price_per_hour, t.name))
    one = LaunchHost(base=oldest.base, device_type=kind.device, zone=kind.zone, host_type=kind.name)
    return [one] * number
