"""A scratch board for one decision: which adapter is where, what may be moved, and the actions that lead there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mlora_ray.policies.compatibility import why_not
from mlora_ray.types import Action, AdapterView, ClusterView, HostView, JobState, Migrate, Pause, Place

MOVABLE = (JobState.PLACED, JobState.TRAINING)


class DraftAssignment:
    """Who would be where. `where` maps an adapter to its hosts, `groups` a living host to its adapters.

    Adapters that a policy may not touch (paused by their owner, on their way) are in neither.
    """

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.adapters: dict[str, AdapterView] = {}
        self.hosts: dict[str, HostView] = {h.id: h for h in view.hosts if h.state == "alive"}
        self.where: dict[str, tuple[str, ...]] = {}
        self.groups: dict[str, list[str]] = {h: [] for h in self.hosts}
        self.running: list[AdapterView] = []
        self.waiting: list[AdapterView] = []
        self.free_bytes = {h.id: h.free_bytes or float("inf") for h in self.hosts.values()}
        self._before: dict[str, tuple[str, ...]] = {}
        for adapter in view.adapters:
            if adapter.host is None:
                if adapter.state is JobState.QUEUED:
                    self.adapters[adapter.id] = adapter
                    self.waiting.append(adapter)
            elif adapter.state in MOVABLE:
                self._add_running(adapter)

    def _add_running(self, adapter: AdapterView) -> None:
        assert adapter.host is not None
        held = (adapter.host, *adapter.shards)
        self.adapters[adapter.id] = adapter
        self._before[adapter.id] = held
        self.running.append(adapter)
        living = tuple(h for h in held if h in self.groups)
        if living:
            self.where[adapter.id] = living
        for host in living:
            self.groups[host].append(adapter.id)

    def waits(self) -> list[AdapterView]:
        """Whoever is on no host on the board."""
        return [a for a in self.adapters.values() if a.id not in self.where]

    def fits(self, adapter: AdapterView, host: HostView) -> bool:
        """Base, device type, numerics and memory; what a pause frees counts from the next decision on."""
        free_bytes = min(self.free_bytes[host.id], host.free_bytes or self.free_bytes[host.id])
        return adapter.state_bytes <= free_bytes and not why_not(adapter, host)

    def put(self, adapter: AdapterView, hosts: Sequence[str]) -> None:
        """Move it to exactly these hosts; none: it waits."""
        held = self.where.pop(adapter.id, ())
        for host in held:
            self.groups[host].remove(adapter.id)
            self.free_bytes[host] += adapter.state_bytes
        if hosts:
            self.where[adapter.id] = tuple(hosts)
        for host in hosts:
            self.groups[host].append(adapter.id)
            self.free_bytes[host] -= adapter.state_bytes

    def empty_hosts(self, adapter: AdapterView) -> list[str]:
        """Hosts without a group that it fits on, in the view's order."""
        return [h for h, group in self.groups.items() if not group and self.fits(adapter, self.hosts[h])]

    def take(self, adapter: AdapterView, hosts: Iterable[str], order: Callable[[str], float] | None = None) -> bool:
        """Put it on as many of `hosts` as it asks for; False, and nothing done, where there are too few."""
        found = sorted(hosts, key=order) if order else list(hosts)
        if len(found) < max(1, adapter.width):
            return False
        self.put(adapter, found[: max(1, adapter.width)])
        return True

    def actions(self) -> list[Action]:
        """What leads from the view to the board: pauses first, so that their room is free."""
        pauses: list[Action] = []
        moves: list[Action] = []
        for name in {**self._before, **self.where}:
            adapter = self.adapters[name]
            now, before = self.where.get(name, ()), self._before.get(name, ())
            if not now:
                if before:
                    pauses.append(Pause(adapter=name, epoch=adapter.epoch))
            elif not before:
                moves.append(Place(adapter=name, host=now[0], epoch=adapter.epoch, shards=now[1:]))
            elif set(now) != set(before):
                moves.append(Migrate(adapter=name, host=now[0], epoch=adapter.epoch, shards=now[1:]))
        return pauses + moves


def remaining_tokens(adapter: AdapterView, unknown: float = 0.0) -> float:
    """What it still has to train on. One that outran its declared size has a tenth of what it has done left."""
    if adapter.tokens_total is None:
        return unknown
    left = adapter.tokens_total - adapter.tokens_done
    return max(float(left), 0.1 * adapter.tokens_done, 1.0)


def by_age(adapters: Iterable[AdapterView]) -> list[AdapterView]:
    """Oldest first; equal ages in the view's order."""
    return sorted(adapters, key=lambda a: a.submitted_at_s)
