"""tLoRA-like, from the published description (arXiv 2602.07263).

Its throughput predictor is not public, ours stands in.

The queue is ordered by urgency, then by residual capacity. The head seeds a group; a binary-cut search over the rest,
sorted by residual capacity, finds the largest prefix whose merge raises the predicted throughput by a minimum gain and
keeps every member's slowdown (alone / in the group) under its bound. Groups stay as they are and take in what waits
(hierarchical incremental grouping); the tiers above a node do not exist here, a device is a node.

Where the description is silent the choices are ours, meant to serve it well and not compared with others: urgency is
the projected slowdown, the group with the most residual capacity merges first, wide adapters start on what devices
there are and widen later, an idle device is given an adapter of the fullest group.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mlora_ray.policies.models.step_time import StepTimeModel, StepTimes
from mlora_ray.policies.placement.assignment import DraftAssignment, remaining_tokens
from mlora_ray.policies.placement.colocation_group import ColocationGroup, GroupMember
from mlora_ray.types import Action, AdapterView, ClusterView, PolicyState

MIN_GAIN = 0.02  # of the predicted throughput
MIN_LEFT_S = 60.0  # with less to go, an adapter is not moved


class Tlora:
    """One slowdown bound for all, as in the published evaluation."""

    name = "tlora"

    def __init__(self, step_times: StepTimes | None = None, max_slowdown: float = 2.0) -> None:
        self._step_times = step_times or StepTimes()
        self._max_slowdown = max_slowdown

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        round_ = _Round(view, self._step_times.seen(view.step_times), self._max_slowdown)
        round_.seed()
        round_.merge()
        round_.spread()
        return round_.board.actions(), state


class _Round:
    """One decision. A group's `worth` is its tokens, so that its `value` is its throughput."""

    def __init__(self, view: ClusterView, step_times: StepTimes, max_slowdown: float) -> None:
        self.board = DraftAssignment(view)
        self._step_times, self._max_slowdown, self._now_s = step_times, max_slowdown, view.now_s
        self._members = {a.id: self._member(a) for a in self.board.adapters.values()}
        self._groups: dict[str, ColocationGroup] = {}
        for host in self.board.hosts.values():
            self._groups[host.id] = ColocationGroup(host.id, step_times.of(host.base, host.device_type))
            for name in self.board.groups[host.id]:
                self._groups[host.id].add(self._members[name])
        self._queue = sorted(self.board.waits(), key=lambda a: (-self._urgency(a), self._residual(a)))

    def _model(self, adapter: AdapterView) -> StepTimeModel:
        return self._step_times.of(adapter.base, adapter.device_type)

    def _member(self, adapter: AdapterView) -> GroupMember:
        tokens = adapter.step_tokens
        alone_s = self._model(adapter).step_s(tokens, 1, tokens * adapter.lora_rank)
        return GroupMember(adapter, tokens, tokens / alone_s, self._max_slowdown * alone_s)

    def _put(self, adapter: AdapterView, hosts: Sequence[str]) -> None:
        for host in self.board.where.get(adapter.id, ()):
            self._groups[host].remove(adapter.id)
        self.board.put(adapter, hosts)
        for host in hosts:
            self._groups[host].add(self._members[adapter.id])

    def _enqueued(self, is_wide: bool) -> list[AdapterView]:
        return [a for a in self._queue if (a.width > 1) == is_wide and a.id not in self.board.where]

    # The three parts of a round.

    def seed(self) -> None:
        """Heads of the queue go to idle devices."""
        for adapter in self._queue:
            self._put(adapter, self.board.empty_hosts(adapter)[: max(1, adapter.width)])

    def merge(self) -> None:
        """Every group takes in the largest prefix of what waits; a wide adapter, as many groups as take it."""
        for adapter in self._enqueued(is_wide=True):
            fitting = [h for h in self._by_residual() if self.board.fits(adapter, self.board.hosts[h])]
            self._put(adapter, [h for h in fitting if self._prefix(h, [adapter]) == 1][: adapter.width])
        narrow = sorted(self._enqueued(is_wide=False), key=self._residual, reverse=True)
        for host in self._by_residual() if narrow else ():
            alike = [a for a in narrow if self.board.fits(a, self.board.hosts[host])]
            taken = alike[: self._prefix(host, alike)]
            for adapter in taken:
                self._put(adapter, [host])
            narrow = [a for a in narrow if a.id not in self.board.where] if taken else narrow

    def _prefix(self, host: str, rest: Sequence[AdapterView]) -> int:
        """Binary cut: the length of the largest prefix that may merge, between one that does and one that does not."""
        group = self._groups[host]
        members = [self._members[a.id] for a in rest]
        tokens = list(itertools.accumulate((a.step_tokens for a in rest), initial=group.tokens))
        ranks = list(itertools.accumulate((a.step_tokens * a.lora_rank for a in rest), initial=group.rank_tokens))
        caps = list(itertools.accumulate((m.max_step_s for m in members), min, initial=group.max_step_s))
        sizes = list(itertools.accumulate((a.state_bytes for a in rest), initial=0))
        low, high = 0, len(rest)
        while low < high:
            middle = (low + high + 1) // 2
            step_s = group.model.step_s(tokens[middle], group.num + middle, ranks[middle])
            is_gain = tokens[middle] / step_s >= (1 + MIN_GAIN) * group.value
            merges = is_gain and step_s <= caps[middle] and sizes[middle] <= self.board.free_bytes[host]
            low, high = (middle, high) if merges else (low, middle - 1)
        return low

    def spread(self) -> None:
        """With nobody waiting, an idle device takes an adapter of the fullest group, or widens a narrow one."""
        if any(a.id not in self.board.where for a in self._queue):
            return
        for host in [h for h, group in self._groups.items() if not group.num]:
            for fullest in sorted(self._groups.values(), key=lambda g: -g.step_s):
                found = self._movable(fullest, host)
                if found:
                    self._put(*found)
                    break

    def _movable(self, group: ColocationGroup, host: str) -> tuple[AdapterView, list[str]] | None:
        """Who of the group goes to the idle host, and its hosts then."""
        inside = [m.adapter for m in group.members.values() if self.board.fits(m.adapter, self.board.hosts[host])]
        movable = [a for a in inside if self._left_s(a) > MIN_LEFT_S]
        narrow = [a for a in movable if len(self.board.where[a.id]) < a.width]
        if narrow:
            return narrow[0], [*self.board.where[narrow[0].id], host]
        single = [a for a in movable if a.width <= 1 and group.num > 1]
        return (max(single, key=lambda a: a.step_tokens), [host]) if single else None

    # What orders the queue.

    def _by_residual(self) -> list[str]:
        """Hosts by what their group leaves free of a device, most first."""
        return sorted(self._groups, key=lambda h: self._groups[h].tokens)

    def _left_s(self, adapter: AdapterView) -> float:
        return remaining_tokens(adapter, unknown=float("inf")) / self._members[adapter.id].density

    def _urgency(self, adapter: AdapterView) -> float:
        """Projected slowdown: how long it takes in all if it ran alone from now on, over how long it takes alone."""
        tokens_s = self._members[adapter.id].density * max(1, adapter.width)
        left_s = remaining_tokens(adapter, unknown=600.0 * tokens_s) / tokens_s
        return (self._now_s - adapter.submitted_at_s + left_s) / (adapter.tokens_done / tokens_s + left_s)

    def _residual(self, adapter: AdapterView) -> float:
        """(1 - compute utilisation) + (1 - memory utilisation) of it alone on a device."""
        model = self._model(adapter)
        memory = (model.base_bytes + adapter.state_bytes) / model.device_bytes if model.device_bytes else 0.0
        return 2.0 - self._members[adapter.id].density / model.best_tokens_s - memory


class TloraTight(Tlora):
    """Slowdown bound 1.3."""

    name = "tlora-1.3"

    def __init__(self, step_times: StepTimes | None = None) -> None:
        super().__init__(step_times, 1.3)


class TloraLoose(Tlora):
    """Slowdown bound 2.0."""

    name = "tlora-2.0"

    def __init__(self, step_times: StepTimes | None = None) -> None:
        super().__init__(step_times, 2.0)
