"""What may still be launched: a ledger of hosts and money, and the choice of a host type within it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from mlora_ray.policies.scaling.demand import CLOSE, HostHistory, Want
from mlora_ray.types import AutoscaleSettings, ClusterView, HostType, HostView


class Budget:
    """Counts hosts and their price per hour against the settings' bounds and each type's own `max_hosts`."""

    def __init__(
        self, view: ClusterView, settings: AutoscaleSettings, hosts: Iterable[HostView], shunned: Collection[str] = ()
    ) -> None:
        """`shunned`: host types that are not to be had just now."""
        self.prices = {t.name: t.price_per_hour for t in view.host_types} | dict(view.prices)
        self._types = {t.name: t for t in view.host_types}
        self._settings, self._shunned = settings, shunned
        self._count: dict[str, int] = {}
        for host in hosts:
            self.add(host.host_type)

    @property
    def num_hosts(self) -> int:
        return sum(self._count.values())

    @property
    def cost_per_hour(self) -> float:
        return sum(number * self.prices.get(name, 0.0) for name, number in sorted(self._count.items()))

    def add(self, host_type: str, number: int = 1) -> None:
        self._count[host_type] = self._count.get(host_type, 0) + number

    def can_ever(self, host_type: str) -> bool:
        """Whether one host of this type fits into an empty cluster."""
        most = self._settings.max_cost_per_hour
        return (
            host_type in self._types
            and self._types[host_type].max_hosts > 0
            and self._settings.max_hosts > 0
            and (most <= 0 or self.prices[host_type] <= most + CLOSE)
        )

    def is_full(self, host_type: str) -> bool:
        """Whether the type itself has all the hosts it may have, or is not to be had."""
        if host_type in self._shunned:
            return True
        return host_type not in self._types or self._count.get(host_type, 0) >= self._types[host_type].max_hosts

    def has_room(self, host_type: str) -> bool:
        """Whether one host more of this type passes no bound."""
        if not self.can_ever(host_type) or self.is_full(host_type) or self.num_hosts >= self._settings.max_hosts:
            return False
        most = self._settings.max_cost_per_hour
        return most <= 0 or self.cost_per_hour + self.prices[host_type] <= most + CLOSE

    def is_over(self, host_type: str) -> bool:
        """Whether a bound, lowered since, is passed, and one host less of this type would help."""
        most = self._settings.max_cost_per_hour
        if host_type in self._types and self._count.get(host_type, 0) > self._types[host_type].max_hosts:
            return True
        is_dear = most > 0 and self.cost_per_hour > most + CLOSE and self.prices.get(host_type, 0.0) > 0
        return is_dear or self.num_hosts > self._settings.max_hosts


def choose_type(
    want: Want,
    budget: Budget,
    host_types: Sequence[HostType],
    staying: Sequence[str],
    settings: AutoscaleSettings,
    learned: HostHistory,
) -> HostType | None:
    """The host type to launch next, or None where the budget has no room for any. `staying`: the types of hosts.

    Spot, as long as spot hosts are at most `spot_share` of the hosts that stay; else on demand. Where only one of the
    two would do, the share says nothing. Among equals the cheapest for its measured speed.
    """
    known = [t for t in host_types if t.name in want.types and budget.can_ever(t.name)]
    spot = {t.name for t in host_types if t.is_spot}
    may_be_spot = sum(name in spot for name in staying) + 1 <= settings.spot_share * (len(staying) + 1) + CLOSE
    has_choice = len({t.is_spot for t in known}) > 1
    options = [t for t in known if budget.has_room(t.name) and (may_be_spot or not t.is_spot or not has_choice)]
    if not options:
        return None
    speeds = _speeds(options, want.base, learned)
    return min(options, key=lambda t: (not t.is_spot, budget.prices[t.name] / speeds[t.name], t.name))


def _speeds(options: Sequence[HostType], base: str, learned: HostHistory) -> Mapping[str, float]:
    """Measured tokens/s of each, or 1 for all where one of them was never measured."""
    found = {t.name: learned.rates.get((base, t.name), 0.0) for t in options}
    return found if all(found.values()) else dict.fromkeys(found, 1.0)
