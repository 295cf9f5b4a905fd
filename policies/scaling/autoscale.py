"""How many hosts there are: launch on work that waits, drain what is too many, to zero when there is nothing to do.

`decide(view, settings, state) -> (actions, state')` is pure. What it keeps, in this order:

1. Hosts that run, start and drain, and their price, never pass `max_hosts`, `max_cost_per_hour` or a type's own limit.
2. A host that was lost is replaced at once; other needs must have stood for `up_delay_s`, surplus for `down_delay_s`.
3. A host with jobs is drained only where each of them can go on elsewhere; the emptiest and dearest go first.
4. Bases take turns: who has no host comes first, the oldest first; a host without work, or one of several, of another
   base goes to make room. A base's only busy host is never taken.
5. A host that does not start within `start_patience_s` is given up, and its type is not tried for as long.

How many hosts a base needs is `policies/scaling/demand.py`'s; `policies/scaling/presets.py` has the named settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mlora_ray.policies.scaling.base_needs import AutoscaleState, ScalingNeeds
from mlora_ray.policies.scaling.budget import Budget, choose_type
from mlora_ray.policies.scaling.demand import Want, can_serve
from mlora_ray.policies.scaling.host_history import standing
from mlora_ray.policies.scaling.presets import PROFILES
from mlora_ray.types import AutoscaleSettings, ClusterView, DrainHost, HostType, HostView, LaunchHost

__all__ = ["PROFILES", "AutoscaleState", "decide"]


def decide(
    view: ClusterView, settings: AutoscaleSettings, state: AutoscaleState
) -> tuple[list[LaunchHost | DrainHost], AutoscaleState]:
    """Hosts to launch and to drain now. Pure: equal arguments, equal answers."""
    return _Decision(view, settings, state).decide()


class _Launch(NamedTuple):
    base: str
    host_type: HostType


class _Decision:
    """One decision's working data. Nothing outlives it but the state it answers."""

    def __init__(self, view: ClusterView, settings: AutoscaleSettings, state: AutoscaleState) -> None:
        self.settings, self.state, self.now_s = settings, state, view.now_s
        self.host_types = view.host_types
        self.seen = ScalingNeeds(view, settings, state)
        self.bases, self.budget = self.seen.bases, self.seen.budget
        self.later = Budget(view, settings, self.seen.staying, self.seen.shunned_until)  # once what leaves is gone
        self.drained: list[HostView] = []
        self.launched: list[_Launch] = []
        short, spare = dict(state.short_since), dict(state.spare_since)
        self.short = {n: standing(short.get(n, ()), len(b.need.wants), self.now_s) for n, b in self.bases.items()}
        self.spare = {n: standing(spare.get(n, ()), len(b.spare), self.now_s) for n, b in self.bases.items()}

    def decide(self) -> tuple[list[LaunchHost | DrainHost], AutoscaleState]:
        self._shed()
        self._give_up_stuck()
        self._drain_spare()
        starving = self._launch()
        self._make_room(starving)
        known = self.seen.known
        again = [h for h in self.state.leaving if h in known and known[h].state == "alive"]
        drains = [DrainHost(host=h) for h in [*again, *(h.id for h in self.drained)]]
        launches = [
            LaunchHost(base=base, device_type=t.device, is_spot=t.is_spot, zone=t.zone, host_type=t.name)
            for base, t in self.launched
        ]
        return [*drains, *launches], self._next()

    # -- down

    def _shed(self) -> None:
        """Drain until a budget that was lowered will be kept again: the least needed first, jobs or not."""
        for host in sorted(self.seen.staying, key=self.seen.keep_first, reverse=True):
            if not self.later.is_over(host.host_type):
                continue
            self._drain(host)

    def _give_up_stuck(self) -> None:
        for host in self.seen.staying:
            if self.seen.is_stuck(host.id) and host not in self.drained:
                self._drain(host)

    def _drain_spare(self) -> None:
        for name, base in self.bases.items():
            since = self.spare[name]
            ripe = sum(self.now_s - at_s >= self.settings.down_delay_s for at_s in since)
            for host in base.spare:
                if ripe and host not in self.drained and self._fits_elsewhere(host, base.hosts):
                    self._drain(host)
                    del since[0]
                    ripe -= 1

    def _fits_elsewhere(self, host: HostView, hosts: Sequence[HostView]) -> bool:
        """Whether each job of this host can go on, and has room, on hosts of its base that run and stay."""
        others = [h for h in hosts if h is not host and h.id not in self.seen.pending and h not in self.drained]
        free = {h.id: h.free_bytes or math.inf for h in others}
        for job in self.seen.jobs_on.get(host.id, ()):
            fitting = [h.id for h in others if can_serve(h, job, self.seen.learned) and free[h.id] >= job.state_bytes]
            if not fitting:
                return False
            free[max(fitting, key=lambda name: (free[name], name))] -= job.state_bytes
        return True

    def _drain(self, host: HostView) -> None:
        self.drained.append(host)
        self.seen.leaving.add(host.id)
        self.later.add(host.host_type, -1)

    # -- up

    def _launch(self) -> list[Want]:
        """Launch what is due while there is room, base by base in turns; answers who starves for want of room."""
        due = {name: self._due(name) for name in self.bases}
        starving: list[Want] = []
        while any(due.values()):
            name = min((n for n in due if due[n]), key=lambda n: self._turn(n, due[n][0]))
            want = due[name].pop(0)
            if not want.is_starving and any(self._lacks_room(other) for other in starving):
                continue  # what room there is, is theirs who wait
            if (found := self._choice(want, self.budget)) is not None:
                self.budget.add(found.name)
                self.later.add(found.name)
                self.launched.append(_Launch(name, found))
                del self.short[name][:1]
            elif want.is_starving:
                starving.append(want)
        return starving

    def _due(self, name: str) -> list[Want]:
        """The wants of a base that may be launched now: those for lost hosts, and those that stood long enough."""
        base = self.bases[name]
        lost = dict(self.state.targets).get(name, 0) - len(base.hosts)
        ripe = sum(self.now_s - at_s >= self.settings.up_delay_s for at_s in self.short[name])
        ordered = sorted(base.need.wants, key=lambda w: (w.is_extra, not w.is_starving, w.oldest_at_s))
        return ordered[: min(max(lost, ripe), self.settings.max_hosts)]

    def _turn(self, name: str, want: Want) -> tuple[bool, bool, float, int, float, str]:
        """Who comes next: starving before others, the oldest of them first; then who has the fewest hosts."""
        num = len(self.bases[name].hosts) + sum(one.base == name for one in self.launched)
        oldest = want.oldest_at_s if want.is_starving else 0.0
        return want.is_extra, not want.is_starving, oldest, num, want.oldest_at_s, name

    def _choice(self, want: Want, budget: Budget) -> HostType | None:
        staying = [h.host_type for h in self.seen.staying if h not in self.drained]
        staying += [one.host_type.name for one in self.launched]
        return choose_type(want, budget, self.host_types, staying, self.settings, self.seen.learned)

    def _lacks_room(self, want: Want) -> bool:
        """Whether it is the whole budget that stops it, not its own host types' limits."""
        return not all(self.budget.is_full(name) for name in want.types)

    def _make_room(self, starving: Sequence[Want]) -> None:
        """Drain for those who starve, unless the hosts that leave already will make the room."""
        for want in starving:
            found = self._choice(want, self.later)
            if found is None:
                givers = self._givers(want)
                options = [[one] for one in givers] + [givers[:number] for number in range(2, len(givers) + 1)]
                for host in next((option for option in options if self._would_do(want, option)), []):
                    self._drain(host)
                found = self._choice(want, self.later)
            if found is not None:
                self.later.add(found.name)

    def _would_do(self, want: Want, givers: Sequence[HostView]) -> bool:
        for host in givers:
            self.later.add(host.host_type, -1)
        found = self._choice(want, self.later)
        for host in givers:
            self.later.add(host.host_type)
        return found is not None

    def _givers(self, want: Want) -> list[HostView]:
        """Hosts that may go for a base that starves: those without work; else one of several of the richest base."""
        idle = [
            host
            for base in self.bases.values()
            for host in base.hosts
            if host.id not in base.need.worked and host not in self.drained and not self.seen.jobs_on.get(host.id)
        ]
        if idle or self.now_s - want.oldest_at_s < self.settings.target_wait_s:
            return sorted(idle, key=self.seen.keep_first, reverse=True)
        staying = {n: [h for h in b.hosts if h not in self.drained] for n, b in self.bases.items() if n != want.base}
        rich = max(staying, key=lambda n: (len(staying[n]), n), default="")
        if not rich or len(staying[rich]) < 2:
            return []
        return [h for h in reversed(staying[rich]) if self._fits_elsewhere(h, staying[rich])][:1]

    # -- what is remembered

    def _next(self) -> AutoscaleState:
        return AutoscaleState(
            at_s=self.now_s,
            targets=tuple((name, number) for name in self.bases if (number := self._target(name))),
            short_since=tuple((name, tuple(since)) for name, since in self.short.items() if since),
            spare_since=tuple((name, tuple(since)) for name, since in self.spare.items() if since),
            rates=self.seen.rates,
            numerics=self.seen.numerics,
            starting_since=tuple(self.seen.starting_since.items()),
            shunned_until=tuple(self.seen.shunned_until.items()),
            leaving=tuple(sorted(self.seen.leaving)),
            last_base=self.seen.last_base,
            arrivals=self.seen.arrivals,
        )

    def _target(self, name: str) -> int:
        """Hosts this base should have: those that stay and come, and those lost that the budget keeps out for now."""
        base = self.bases[name]
        given = sum(h in self.drained for h in base.hosts)
        coming = sum(one.base == name for one in self.launched)
        before = dict(self.state.targets).get(name, 0) - given
        return max(len(base.hosts) - given + coming, min(before, len(base.need.used) + len(base.need.wants)))
