"""What asking for spot machines has shown: a zone that gave none is refused until a machine of it starts.

Nothing tells whether a zone has spot machines but asking for one. A host type whose launches bring no new host by the
next decision, or whose host does not start within `start_patience_s`, is refused: then it is asked for one host a
decision, until one starts.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlora_ray.policies.scaling.budget import Budget
from mlora_ray.policies.scaling.demand import HostHistory, fitting_types
from mlora_ray.types import AdapterView, AutoscaleSettings, ClusterView, HostType, LaunchHost


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeState:
    """What is remembered between two decisions, as plain data."""

    asked: tuple[str, ...] = ()  # host types of the launches before
    known: tuple[str, ...] = ()  # hosts there were then
    refused: tuple[str, ...] = ()
    starting_since: tuple[tuple[str, float], ...] = ()


class ZoneProbes:
    """Reads what came of the launches before, and counts those of this decision within `limits`."""

    def __init__(
        self, view: ClusterView, state: ProbeState, limits: AutoscaleSettings, start_patience_s: float
    ) -> None:
        self._view = view
        self._budget = Budget(view, limits, [h for h in (*view.hosts, *view.pending_hosts) if h.state != "dead"])
        self._hosts = {h.id: h.host_type for h in (*view.hosts, *view.pending_hosts) if h.state != "dead"}
        self._types = {t.name: t for t in view.host_types}
        self.launched: list[LaunchHost] = []
        since = dict(state.starting_since)
        running = {h.id for h in view.hosts}
        self._starting = {h.id: since.get(h.id, view.now_s) for h in view.pending_hosts if h.id not in running}
        self.stuck = {name for name, at_s in self._starting.items() if view.now_s - at_s >= start_patience_s}
        new = {kind for host, kind in self._hosts.items() if host not in state.known}
        self.refused = (set(state.refused) | set(state.asked)) - new
        self.refused |= {self._hosts[name] for name in self.stuck}

    def spot_types(self, job: AdapterView) -> list[HostType]:
        """Spot types for this job, in the order to ask: not refused, fewest hosts (spread over zones), cheapest."""
        found = [kind for kind in self._fitting(job) if kind.is_spot]
        return sorted(found, key=lambda t: (t.name in self.refused, self._count(t.name), t.price_per_hour, t.name))

    def launch_spot(self, job: AdapterView, *, is_probing: bool = False) -> HostType | None:
        """The type a spot host was asked of: one not refused; probing, one refused that this decision has not asked."""
        for kind in self.spot_types(job):
            is_asked = any(one.host_type == kind.name for one in self.launched)
            is_right = is_probing and not is_asked if kind.name in self.refused else not is_probing
            if is_right and self._launch(job.base, kind):
                return kind
        return None

    def launch_sure(self, job: AdapterView) -> HostType | None:
        """The type of the on-demand host launched: the cheapest; none where there is no room."""
        sure = sorted((k for k in self._fitting(job) if not k.is_spot), key=lambda k: (k.price_per_hour, k.name))
        return next((kind for kind in sure if self._launch(job.base, kind)), None)

    def next(self) -> ProbeState:
        return ProbeState(
            asked=tuple(sorted({one.host_type for one in self.launched if one.is_spot})),
            known=tuple(self._hosts),
            refused=tuple(sorted(self.refused)),
            starting_since=tuple(self._starting.items()),
        )

    def _fitting(self, job: AdapterView) -> list[HostType]:
        shown: dict[str, set[str]] = {}
        for host in self._view.hosts:
            if host.numerics:
                shown.setdefault(host.host_type, set()).add(host.numerics)
        learned = HostHistory({}, {name: frozenset(held) for name, held in shown.items()})
        return [self._types[name] for name in fitting_types(job, self._view.host_types, learned)]

    def _launch(self, base: str, kind: HostType) -> bool:
        if not self._budget.has_room(kind.name):
            return False
        self._budget.add(kind.name)
        self.launched.append(
            LaunchHost(base=base, device_type=kind.device, is_spot=kind.is_spot, zone=kind.zone, host_type=kind.name)
        )
        return True

    def _count(self, name: str) -> int:
        launched = sum(one.host_type == name for one in self.launched)
        return launched + sum(kind == name for kind in self._hosts.values())
