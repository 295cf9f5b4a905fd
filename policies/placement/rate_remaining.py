"""Rate over remaining, with preemption, and bounds on what sharing may cost.

A device's group is worth `sum(w_i * T_i) / t(S, n)`: every member's rate times its weight, one over what it has left
(`policies.worth`), so that what is nearly done goes first and adapters share a step as long as that helps more than it
slows. Who waits gets an idle device; else it goes where the groups' value rises most, beside the members or in place of
some, by a margin that keeps adapters from going to and fro. Whoever may end among the slowest hundredth is hardly
slowed by sharing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.placement.assignment import DraftAssignment
from mlora_ray.policies.placement.colocation_group import ColocationGroup, GroupMember
from mlora_ray.policies.placement.job_value import JobValue, WorthSettings
from mlora_ray.types import Action, AdapterView, ClusterView, HostView, PolicyState

Takeover = tuple[float, str, list[AdapterView]]  # (gain, host, who leaves)


@dataclass(frozen=True, slots=True, kw_only=True)
class OursSettings:
    """The knobs, tuned on windows that no table reports."""

    is_fusing: bool = True
    is_preempting: bool = True
    hysteresis: float = 0.4  # of a group's value: less gain preempts nobody
    horizon_s: float = 1800.0  # things are as they are for so long, not longer
    min_left_s: float = 120.0  # with less to go, a narrow adapter preempts nobody to become wider
    candidates: int = 24  # of the groups, the least valuable: only those are looked at
    takeovers: int = 2  # groups more than it asks for that an adapter tries to take over
    tries: int = 12  # in a row that found no place end the search among adapters of a kind
    worth: WorthSettings = field(default_factory=WorthSettings)


class RateRemaining:
    """The rule above. Its state is what `policies.tail` remembers."""

    name = "rate-remaining"
    wake_s = 300.0

    def __init__(
        self,
        step_times: StepTimes | None = None,
        settings: OursSettings | None = None,
        tenant_shares: tuple[tuple[str, float], ...] = (),
    ) -> None:
        """`tenant_shares`: of the devices, weights by tenant; none: who a job is of does not matter."""
        self._step_times = step_times or StepTimes()
        self._settings = settings or OursSettings()
        if tenant_shares:
            worth = replace(self._settings.worth, tenant_power=1.0, tenant_shares=tenant_shares)
            self._settings = replace(self._settings, worth=worth)

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        search = _Search(view, self._step_times.seen(view.step_times), self._settings, state)
        search.place_waiting()
        search.use_idle_hosts()
        return search.board.actions(), search.worth.tail.state()


class RateRemainingNoFusion(RateRemaining):
    """Ablation: a device for each."""

    name = "rate-remaining-no-fusion"

    def __init__(self, step_times: StepTimes | None = None) -> None:
        super().__init__(step_times, OursSettings(is_fusing=False))


class RateRemainingNoPreemption(RateRemaining):
    """Ablation: who runs stays."""

    name = "rate-remaining-no-preemption"

    def __init__(self, step_times: StepTimes | None = None) -> None:
        super().__init__(step_times, OursSettings(is_preempting=False))


class _Search:
    """One decision: groups by host, and the moves that raise their value."""

    def __init__(self, view: ClusterView, step_times: StepTimes, settings: OursSettings, state: PolicyState) -> None:
        self.board = DraftAssignment(view)
        self.worth = JobValue(self.board, state, step_times, settings.worth)
        self._settings = settings
        self._groups: dict[str, ColocationGroup] = {}
        for host in self.board.hosts.values():
            group = ColocationGroup(host.id, step_times.of(host.base, host.device_type), 0 if settings.is_fusing else 1)
            for name in self.board.groups[host.id]:
                group.add(self.worth.member(self.board.adapters[name]))
            self._groups[host.id] = group
        self._empty = [host for host in self.board.hosts.values() if not self._groups[host.id].num]

    # Who waits.

    def place_waiting(self) -> None:
        """From the most valuable on: idle devices, else the groups whose value rises most."""
        weight = self.worth.weight
        queue = [(-weight[a.id], a.submitted_at_s, a.id) for a in (*self.board.waits(), *self._narrow())]
        heapq.heapify(queue)
        tries = {_kind(self.board.adapters[name]): self._settings.tries for _, _, name in queue}  # left, by kind
        while queue and any(tries.values()):
            adapter = self.board.adapters[heapq.heappop(queue)[2]]
            kind = _kind(adapter)
            if not tries[kind]:
                continue
            held = self.board.where.get(adapter.id, ())
            num = max(1, adapter.width) - len(held)
            hosts = self._idle_for(adapter)[:num]
            evicted: list[AdapterView] = []
            if len(hosts) < num:
                hosts += self._enter(self.worth.member(adapter), num - len(hosts), hosts, evicted)
            tries[kind] = self._settings.tries if hosts else tries[kind] - 1
            if not hosts:
                continue
            self._put(adapter, [*held, *hosts])
            for one in evicted:
                if one.id not in self.board.where:
                    tries.setdefault(_kind(one), self._settings.tries)
                    heapq.heappush(queue, (-weight[one.id], one.submitted_at_s, one.id))

    def _narrow(self) -> list[AdapterView]:
        """Running on fewer devices than they ask for, with enough to go to be worth a move."""
        wide = [a for a in self.board.running if a.width > len(self.board.where.get(a.id, ())) > 0]
        return [a for a in wide if self.worth.left_s[a.id] / a.width >= self._settings.min_left_s]

    def _idle_for(self, adapter: AdapterView) -> list[str]:
        """Idle hosts it fits on: the fastest, then on-demand ones for deadlines and spot ones for the rest."""
        self._empty = [host for host in self._empty if not self._groups[host.id].num]
        fitting = [host for host in self._empty if self.board.fits(adapter, host)]
        has_deadline = adapter.deadline_at_s is not None

        def order(host: HostView) -> tuple[float, bool]:
            return self._groups[host.id].step_s_with(adapter), host.is_spot == has_deadline

        return [host.id for host in sorted(fitting, key=order)]

    def _enter(self, member: GroupMember, num: int, but: list[str], evicted: list[AdapterView]) -> list[str]:
        """Hosts whose groups are worth more with it, some members left out where that is better still.

        `evicted` gains who leaves.
        """
        groups = self._fitting(member.adapter, but)
        found = self._joins(member, groups)
        if self._settings.is_preempting:
            found += self._takeovers(member, groups[: num + self._settings.takeovers], found[0][0] if found else 0.0)
        hosts: list[str] = []
        for _, host, left in sorted(found, key=lambda held: -held[0]):
            if host in hosts or len(hosts) == num:
                continue
            hosts.append(host)
            for one in left:
                self._put(one, [h for h in self.board.where[one.id] if h != host])
            evicted += left
        return hosts

    def _joins(self, member: GroupMember, groups: Iterable[ColocationGroup]) -> list[Takeover]:
        """Groups it may join, where it costs itself and the members least first; all count as the largest gain."""
        gains = [(group.gain_of(member), group) for group in groups]
        enough = self._settings.hysteresis * member.worth
        better = [(gain, group) for gain, group in gains if gain * group.step_s > enough]
        better.sort(key=lambda held: held[1].delay_of(member))
        highest = max((gain for gain, _ in better), default=0.0)
        return [(highest, group.host, []) for _, group in better]

    def _takeovers(self, member: GroupMember, groups: Iterable[ColocationGroup], least: float) -> list[Takeover]:
        """Groups that are worth more with it and without some members, by more than joining one gains."""
        found = []
        for group in groups:
            value, left = group.best_with(member)
            gain = value / (1 + self._settings.hysteresis) - group.value
            if left and gain > least:
                found.append((gain, group.host, left))
        return found

    def _fitting(self, adapter: AdapterView, but: Iterable[str]) -> list[ColocationGroup]:
        """Groups on hosts that it fits on, the least valuable first."""
        taken = {*but, *self.board.where.get(adapter.id, ())}
        hosts, found = self.board.hosts, []
        for group in sorted(self._groups.values(), key=_value):
            if group.num and group.host not in taken and self.board.fits(adapter, hosts[group.host]):
                found.append(group)
                if len(found) == self._settings.candidates:
                    break
        return found

    # Who runs.

    def use_idle_hosts(self) -> None:
        """An idle device takes whoever saves most time by having it: a member of a group, or one that may be wider."""
        hopeless: set[tuple[str, str, str, bool]] = set()  # kinds of host that nobody would gain by
        for host in [h for h in self._empty if not self._groups[h.id].num]:
            kind = (host.base, host.device_type, host.numerics, host.is_spot)
            if kind in hopeless:
                continue
            found = [
                (*self._saved_s(member, group, host.id), member.adapter)
                for group in self._groups.values()
                for member in group.members.values()
                if self.board.fits(member.adapter, host)
            ]
            saved_s, hosts, adapter = max(found, key=lambda held: held[0], default=(0.0, [], None))
            if adapter is None or saved_s <= self._settings.worth.move_s:
                hopeless.add(kind)
            else:
                self._put(adapter, hosts)

    def _saved_s(self, member: GroupMember, group: ColocationGroup, host: str) -> tuple[float, list[str]]:
        """Seconds it and its neighbours save within the horizon by going to the idle `host`, and its hosts then."""
        adapter, horizon_s = member.adapter, self._settings.horizon_s
        held, left = self.board.where[adapter.id], self.worth.left_s
        left_s = min(left[adapter.id] / len(held), horizon_s)
        if len(held) < adapter.width:
            return left_s / (len(held) + 1), [*held, host]
        if group.num < 2 or len(held) > 1:
            return 0.0, []
        without = 1 - group.step_s_without(adapter) / group.step_s
        others = sum(min(left[name], horizon_s) for name in group.members if name != adapter.id)
        return left_s * (1 - self._groups[host].step_s_with(adapter) / group.step_s) + others * without, [host]

    def _put(self, adapter: AdapterView, hosts: list[str]) -> None:
        for host in self.board.where.get(adapter.id, ()):
            self._groups[host].remove(adapter.id)
        self.board.put(adapter, hosts)
        for host in hosts:
            self._groups[host].add(self.worth.member(adapter))


def _kind(adapter: AdapterView) -> tuple[str, str, str]:
    """What decides which hosts it fits on."""
    return adapter.base, adapter.device_type, adapter.numerics


def _value(group: ColocationGroup) -> float:
    return group.value
