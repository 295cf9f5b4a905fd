"""What a view means to the autoscaler: which hosts stay, what each base needs of them, and what it has too many of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from mlora_ray.policies.scaling import arrival_forecast
from mlora_ray.policies.scaling.budget import Budget
from mlora_ray.policies.scaling.demand import Fill, Want, a_host_does, fill, groups_of, load_of, open_jobs, open_types
from mlora_ray.policies.scaling.host_history import jobs_on, learn_numerics, learn_rates, learned
from mlora_ray.types import AdapterView, AutoscaleSettings, ClusterView, HostView

DOWN_MARGIN = 1.25  # a host is one too many only where the others would do with a quarter more work


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleState:
    """What the autoscaler remembers, as plain data. The default is a service that has just begun."""

    at_s: float = 0.0
    targets: tuple[tuple[str, int], ...] = ()  # base -> hosts it should have: fewer means that some were lost
    short_since: tuple[tuple[str, tuple[float, ...]], ...] = ()  # base -> since when one, two, ... hosts are missing
    spare_since: tuple[tuple[str, tuple[float, ...]], ...] = ()  # base -> since when one, two, ... are too many
    rates: tuple[tuple[str, str, float, float], ...] = ()  # base, host type, tokens/s, measured since
    numerics: tuple[tuple[str, str], ...] = ()  # host type, numerics that a host of it has had
    starting_since: tuple[tuple[str, float], ...] = ()  # host -> since when it has been starting
    shunned_until: tuple[tuple[str, float], ...] = ()  # host type -> not tried before, as its hosts do not start
    leaving: tuple[str, ...] = ()  # hosts that were told to drain and may not show it yet
    last_base: str = ""  # has, or had last, work: `min_hosts` are its
    arrivals: tuple[tuple[str, float], ...] = ()  # what `forecast` remembers


class BaseNeed(NamedTuple):
    """One base now: the hosts that stay (to keep first), and what the work makes of them."""

    hosts: tuple[HostView, ...]
    need: Fill
    spare: tuple[HostView, ...]  # too many, to drain first


class ScalingNeeds:
    """Reads a view once. Hosts that leave are no capacity, but cost until they are gone."""

    def __init__(self, view: ClusterView, settings: AutoscaleSettings, state: AutoscaleState) -> None:
        self.view, self.settings, self.now_s = view, settings, view.now_s
        self.known = {h.id: h for h in (*view.pending_hosts, *view.hosts) if h.state != "dead"}
        self.pending = {h.id for h in view.pending_hosts} - {h.id for h in view.hosts}
        self.leaving = {h.id for h in self.known.values() if h.state != "alive" or h.id in state.leaving}
        self.staying = [h for h in self.known.values() if h.id not in self.leaving]
        before = dict(state.starting_since)
        self.starting_since = {name: before.get(name, self.now_s) for name in sorted(self.pending)}
        self.shunned_until = self._shunned(state)
        self.budget = Budget(view, settings, self.known.values(), self.shunned_until)
        self.jobs = open_jobs(view)
        self.jobs_of: dict[str, list[AdapterView]] = {}
        for job in self.jobs:
            self.jobs_of.setdefault(job.base, []).append(job)
        self.jobs_on = jobs_on(view)
        self.numerics = learn_numerics(state.numerics, view)
        elapsed_s = view.now_s - state.at_s
        self.rates = learn_rates(state.rates, view, self.jobs_on, elapsed_s, settings.jobs_per_host)
        self.learned = learned(self.rates, self.numerics, view.now_s)
        self.arrivals = self._arrivals(state.arrivals) if settings.is_forecasting else ()
        self.last_base = self._last_base(state.last_base)
        self.bases = self._bases()

    def keep_first(self, host: HostView) -> tuple[bool, int, float, str]:
        """Order of hosts: those that run before those that start, the busiest, then the cheapest."""
        price = self.budget.prices.get(host.host_type, 0.0)
        return host.id in self.pending, -len(self.jobs_on.get(host.id, ())), price, host.id

    def is_stuck(self, host: str) -> bool:
        """Whether it has been starting for too long: no machine comes for it, or it cannot load its base."""
        patience_s = self.settings.start_patience_s
        return 0 < patience_s <= self.now_s - self.starting_since.get(host, self.now_s)

    def _shunned(self, state: AutoscaleState) -> dict[str, float]:
        kept = {name: until_s for name, until_s in state.shunned_until if until_s > self.now_s}
        stuck = [h.host_type for h in self.staying if self.is_stuck(h.id)]
        return kept | dict.fromkeys(stuck, self.now_s + self.settings.start_patience_s)

    def _arrivals(self, memory: arrival_forecast.Memory) -> arrival_forecast.Memory:
        types = [t.name for t in self.view.host_types]
        does = {b: a_host_does(b, types, self.settings, self.learned) for b in {j.base for j in self.jobs}}
        arrived = [
            arrival_forecast.Arrived(j.base, j.submitted_at_s, load_of(j, does[j.base], self.settings))
            for j in self.jobs
        ]
        return arrival_forecast.learn(memory, arrived, self.now_s)

    def _last_base(self, before: str) -> str:
        if before in self.jobs_of or not self.jobs:
            return before
        return min(self.jobs, key=lambda j: (j.submitted_at_s, j.id)).base

    def _bases(self) -> dict[str, BaseNeed]:
        ahead = arrival_forecast.expected(self.arrivals, self.now_s) if self.settings.is_forecasting else {}
        names = {*self.jobs_of} | {h.base for h in self.staying} | set(ahead) | {self.last_base}
        bases = {name: self._base(name, ahead.get(name, 0.0)) for name in sorted(names - {""})}
        needed = sum(len(b.need.used) + len(b.need.wants) for b in bases.values())
        missing = min(self.settings.min_hosts, self.settings.max_hosts) - needed
        if missing > 0 and self.last_base:
            bases[self.last_base] = self._kept_warm(bases[self.last_base], missing)
        return bases

    def _base(self, name: str, ahead: float) -> BaseNeed:
        hosts = tuple(sorted((h for h in self.staying if h.base == name), key=self.keep_first))
        types = [t for t in self.view.host_types if self.budget.can_ever(t.name)]
        groups = groups_of(name, self.jobs_of.get(name, ()), hosts, types, self.settings, self.learned)
        need = fill(name, groups, hosts, types, extra=ahead)
        kept = fill(name, groups, hosts, types, margin=DOWN_MARGIN, extra=ahead * DOWN_MARGIN)
        used = {*need.used, *kept.used}
        return BaseNeed(hosts, need, tuple(h for h in reversed(hosts) if h.id not in used))

    def _kept_warm(self, base: BaseNeed, missing: int) -> BaseNeed:
        """The base with `missing` hosts more that stay or are wanted, though there is no work for them."""
        missing -= len(base.hosts) - len(base.need.used) - len(base.spare)  # the margin keeps these already
        kept = [*reversed(base.spare)][: max(0, missing)]
        spare = tuple(h for h in base.spare if h not in kept)
        types = open_types([t for t in self.view.host_types if self.budget.can_ever(t.name)])
        more = [Want(self.last_base, types, math.inf, is_extra=True)] * (missing - len(kept))
        return base._replace(spare=spare, need=base.need._replace(wants=(*base.need.wants, *more)))
