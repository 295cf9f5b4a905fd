"""What an adapter's progress is worth to `ours`: one over the seconds it still needs, and what changes that.

    weight = 2**priority * (tenant's share / what it has)**tenant_power * slowdown**ageing / (left_s + move_s)

`move_s` counts only for who waits. `slowdown` is the projected one: age plus what is left, over the time alone. Past
`promised_slowdown`, or when its deadline would otherwise be missed, an adapter weighs as much as one with `urgent_s`
to go. So does, with `guard_s`, one that would be among the slowest hundredth if it waited on: a tenth of the hosts is
kept for those of them with least to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.placement.assignment import DraftAssignment
from mlora_ray.policies.placement.colocation_group import GroupMember
from mlora_ray.policies.placement.slowest_percentile import SlowestPercentile
from mlora_ray.types import AdapterView, PolicyState

MIN_SHARE_FACTOR, MAX_SHARE_FACTOR = 0.25, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorthSettings:
    """The knobs, tuned on windows that no table reports."""

    ageing: float = 0.0  # power of the projected slowdown: the frontier between mean and maximum
    promised_slowdown: float = 10.0
    urgent_s: float = 600.0
    deadline_margin: float = 0.25  # of the time it needs: with less slack an adapter is urgent
    move_s: float = 8.8  # what a pause and a place cost
    unknown_s: float = 600.0  # work of an adapter of unknown size beyond what it has had
    max_slowdown: float = 4.0  # of a member of a group, alone over grouped
    tight_slowdown: float = 1.1  # of one that may end among the slowest hundredth
    tight_share: float = 0.5  # of the slowest hundredth's time: from there on the tight bound holds
    guard_share: float = 0.7  # of the slowest hundredth's time: from there to all of it an adapter is in danger
    guard_hosts: float = 0.1  # of the hosts: those in danger with least to go are guarded, on so many
    guard_s: float = 300.0  # the guarded weigh as if they had so much to go; 0: nobody is guarded
    tenant_power: float = 0.0  # 0: tenants do not matter
    tenant_shares: tuple[tuple[str, float], ...] = ()  # who is not named has 1


class JobValue:
    """Seconds left alone on one device, and the weight, of every adapter on the board."""

    def __init__(
        self, board: DraftAssignment, state: PolicyState, step_times: StepTimes, settings: WorthSettings
    ) -> None:
        self._settings, self._step_times = settings, step_times
        self.left_s = {name: self._left_s(adapter) for name, adapter in board.adapters.items()}
        now_s = board.view.now_s
        projected = {
            name: now_s - adapter.submitted_at_s + self.left_s[name] / (adapter.width or 1)
            for name, adapter in board.adapters.items()
        }
        self.tail = SlowestPercentile(state, board.view, projected)
        self._guarded = self._in_danger(board, projected) if settings.guard_s else frozenset[str]()
        factors = _tenant_factors(board, settings) if settings.tenant_power else {}
        self.weight = {name: self._weigh(a, projected[name], factors) for name, a in board.adapters.items()}

    def member(self, adapter: AdapterView) -> GroupMember:
        """The adapter as a group sees it."""
        held, name = self._settings, adapter.id
        alone_s = adapter.step_tokens / self._tokens_s(adapter)
        is_tight = self.tail.pressure(name) >= held.tight_share
        bound = held.tight_slowdown if is_tight else held.max_slowdown
        return GroupMember(adapter, self.weight[name] * alone_s, self.weight[name], bound * alone_s)

    def _in_danger(self, board: DraftAssignment, projected: Mapping[str, float]) -> frozenset[str]:
        """Who would be among the slowest hundredth if it waited on. Who is past it already cannot be saved."""
        if not self.tail.has_hundredth:
            return frozenset()
        held, limit_s = self._settings, self.tail.limit_s
        found = [name for name, seconds in projected.items() if held.guard_share <= seconds / limit_s <= 1.0]
        room, guarded = held.guard_hosts * len(board.hosts), []
        for name in sorted(found, key=lambda name: (self.left_s[name], name)):
            if room <= 0:
                break
            room -= max(1, board.adapters[name].width)
            guarded.append(name)
        return frozenset(guarded)

    def _tokens_s(self, adapter: AdapterView) -> float:
        if adapter.solo_tokens_s:
            return adapter.solo_tokens_s
        model = self._step_times.of(adapter.base, adapter.device_type)
        return model.solo_tokens_s(adapter.step_tokens, adapter.lora_rank)

    def _left_s(self, adapter: AdapterView) -> float:
        """Of unknown size: as long as it has run, and a little. Past its declared size: a tenth of what it has done."""
        tokens_s = adapter.solo_tokens_s or self._tokens_s(adapter)
        done, total = adapter.tokens_done, adapter.tokens_total
        if total is None:
            return done / tokens_s + self._settings.unknown_s
        return max(total - done, 0.1 * done, 1.0) / tokens_s

    def _weigh(self, adapter: AdapterView, projected_s: float, factors: Mapping[str, float]) -> float:
        held = self._settings
        left_s = self.left_s[adapter.id]
        weight = 1.0 / (left_s if adapter.host else left_s + held.move_s)
        alone_s = left_s / (adapter.width or 1)
        if adapter.tokens_done:
            alone_s += adapter.tokens_done / (self._tokens_s(adapter) * (adapter.width or 1))
        if held.ageing:
            weight *= max(1.0, projected_s / alone_s) ** held.ageing
        is_late = projected_s > held.promised_slowdown * alone_s
        if adapter.deadline_at_s is not None:
            slack_s = adapter.deadline_at_s - adapter.submitted_at_s - projected_s
            is_late = is_late or 0 <= slack_s < held.deadline_margin * alone_s
        if is_late:
            weight = max(weight, 1.0 / held.urgent_s)
        if adapter.id in self._guarded:
            weight = max(weight, 1.0 / held.guard_s)
        if factors:
            weight *= factors[adapter.tenant]
        return weight * 2.0**adapter.priority if adapter.priority else weight


def _tenant_factors(board: DraftAssignment, settings: WorthSettings) -> dict[str, float]:
    """(Share of the devices a tenant should have / that it has) ** power, among tenants with something to do."""
    shares = dict(settings.tenant_shares)
    present = {a.tenant: shares.get(a.tenant, 1.0) for a in board.adapters.values()}
    has = dict.fromkeys(present, 0.0)
    for group in board.groups.values():
        for name in group:
            has[board.adapters[name].tenant] += 1.0 / len(group)
    should = {tenant: share / sum(present.values()) * len(board.groups) for tenant, share in present.items()}
    return {
        tenant: min(MAX_SHARE_FACTOR, max(MIN_SHARE_FACTOR, (should[tenant] / max(has[tenant], 0.25))))
        ** settings.tenant_power
        for tenant in present
    }
