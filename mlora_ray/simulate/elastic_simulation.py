"""A cluster whose hosts come and go: crashes, spot machines by an availability series, autoscaling.

A launched host boots (`boot_s`) and loads its base (`base_s`), and is paid for from the launch on. A spot machine is
told `notice_s` before it goes; who is still there when it goes, or when a host crashes, loses every step since its last
bundle and waits again. The autoscaler is any `decide(view) -> actions`, asked every `autoscale_s`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mlora_ray.policies.contract import Policy
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.hosts_and_adapters import Host
from mlora_ray.simulate.results import Costs, Outcome, SimHost, SimJob
from mlora_ray.simulate.simulation import HOST, Simulation, SimulationError
from mlora_ray.types import Action, ClusterView, DrainHost, HostType, LaunchHost

Autoscaler = Callable[[ClusterView], Sequence[Action]]
MAX_WITHOUT_HOSTS_S = 30 * 86400.0
DRAIN_S = 120.0  # after a drain that has nobody left, or for so long, the host is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotSeries:
    """How many spot machines a zone has, from each second on. The last number holds for ever."""

    zone: str
    at_s: tuple[float, ...]
    available: tuple[int, ...]

    def at(self, now_s: float) -> int:
        found = bisect.bisect_right(self.at_s, now_s) - 1
        return self.available[found] if found >= 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """What happens to hosts. `crashes` are (second, host id)."""

    crashes: tuple[tuple[float, str], ...] = ()
    spot: tuple[SpotSeries, ...] = ()
    notice_s: float = 60.0
    host_types: tuple[HostType, ...] = ()
    autoscale_s: float = 60.0
    is_repaired: bool = True  # a crashed host comes back after boot and base


class FleetSimulation(Simulation):
    """Adds to a simulation that hosts are launched, drained, warned, lost and repaired."""

    def __init__(
        self,
        jobs: Sequence[SimJob],
        hosts: Iterable[SimHost],
        step_times: StepTimes,
        policy: Policy,
        costs: Costs | None = None,
        settings: FleetSettings | None = None,
        autoscaler: Autoscaler | None = None,
    ) -> None:
        super().__init__(jobs, hosts, step_times, policy, costs)
        self._settings, self._autoscaler = settings or FleetSettings(), autoscaler
        self._num_launched = self._num_crashes = self._num_preempted = 0
        self._gone: list[Host] = []
        self._last_submit_s = max((j.submit_s for j in jobs), default=0.0)
        self._zones = {series.zone: series for series in self._settings.spot}
        self._types = {held.name: held for held in self._settings.host_types}
        for at_s, name in self._settings.crashes:
            self.push(at_s, HOST, ("crash", name))
        for series in self._settings.spot:
            for at_s in series.at_s:
                self.push(at_s, HOST, ("spot", series.zone))
        if autoscaler:
            self.push(self.now_s, HOST, ("scale", ""))

    def view(self) -> ClusterView:
        plain = super().view()
        pending = tuple(replace(h.seen(), state="alive") for h in self.hosts.values() if h.state == "pending")
        prices = tuple((held.name, held.price_per_hour) for held in self._types.values())
        return replace(plain, pending_hosts=pending, host_types=self._settings.host_types, prices=prices)

    def host_event(self, subject: object) -> bool:
        assert isinstance(subject, tuple)
        kind, name = subject
        handlers = {"join": self._join_host, "crash": self._crash, "spot": self._spot, "gone": self._go}
        if kind == "scale":
            self._scale()
            return False
        handlers[kind](name)
        return True

    # Coming.

    def _scale(self) -> None:
        assert self._autoscaler is not None
        if self.now_s > self._last_submit_s + MAX_WITHOUT_HOSTS_S and not self.hosts:
            raise SimulationError(f"the autoscaler launches nothing for {len(self.active)} adapters: {self.shown()}")
        for action in self._autoscaler(self.view()):
            if isinstance(action, LaunchHost):
                self._launch(action)
            elif isinstance(action, DrainHost):
                self._drain(action.host, DRAIN_S)
        if self.active or self.num_to_come:
            self.push(self.now_s + self._settings.autoscale_s, HOST, ("scale", ""))

    def _launch(self, action: LaunchHost) -> None:
        """A spot machine only where the zone has one left."""
        held = self._types.get(action.host_type)
        zone, is_spot = (held.zone, held.is_spot) if held else (action.zone, action.is_spot)
        if is_spot and zone in self._zones and len(self._spot_hosts(zone)) >= self._zones[zone].at(self.now_s):
            return
        self._num_launched += 1
        spec = SimHost(
            id=f"{action.host_type or action.device_type}-{self._num_launched}",
            base=action.base,
            device_type=held.device if held else action.device_type,
            zone=zone,
            is_spot=is_spot,
            host_type=action.host_type,
            price_per_hour=held.price_per_hour if held else 0.0,
        )
        model = self.step_times.of(spec.base, spec.device_type)
        self.hosts[spec.id] = Host(spec, model, self.now_s, state="pending")
        self.push(self.now_s + self.costs.boot_s + self.costs.base_s, HOST, ("join", spec.id))

    def _join_host(self, name: str) -> None:
        host = self.hosts.get(name)
        if host and host.state == "pending":
            host.account(self.now_s)
            host.state, host.view = "alive", None

    # Going.

    def _drain(self, name: str, within_s: float) -> None:
        host = self.hosts.get(name)
        if host is None or host.state not in ("alive", "pending"):
            return
        host.account(self.now_s)
        host.state, host.view = "draining", None
        host.leaves_at_s = self.now_s + within_s
        self.push(host.leaves_at_s if host.group else self.now_s, HOST, ("gone", name))

    def _spot(self, zone: str) -> None:
        """Where the zone has fewer machines than run there, the newest are told to go."""
        running = [h for h in self._spot_hosts(zone) if h.state != "draining"]
        excess = len(running) - self._zones[zone].at(self.now_s)
        for host in sorted(running, key=lambda h: h.launched_s, reverse=True)[: max(0, excess)]:
            self._num_preempted += 1
            self._drain(host.spec.id, self._settings.notice_s)

    def _spot_hosts(self, zone: str) -> list[Host]:
        return [h for h in self.hosts.values() if h.spec.is_spot and h.spec.zone == zone]

    def _go(self, name: str) -> None:
        host = self.hosts.get(name)
        if host is None:
            return
        self._lose(host)
        host.state = "dead"
        self._gone.append(self.hosts.pop(name))

    def _crash(self, name: str) -> None:
        host = self.hosts.get(name)
        if host is None or host.state == "pending":
            return
        self._num_crashes += 1
        self._go(name)
        if self._settings.is_repaired:
            again = Host(host.spec, host.model, self.now_s, state="pending")
            self.hosts[name] = again
            self.push(self.now_s + self.costs.boot_s + self.costs.base_s, HOST, ("join", name))

    def _lose(self, host: Host) -> None:
        """Everyone on it is back at its last bundle; a wide adapter as a whole."""
        host.account(self.now_s)
        for adapter in list(host.group.values()):
            self.leave(adapter)
            bundle = self.costs.bundle_steps * adapter.job.step_tokens * adapter.job.width
            kept = math.floor(adapter.done / bundle) * bundle
            adapter.lost += adapter.done - kept
            adapter.done = kept
            adapter.view = None

    def outcome(self) -> Outcome:
        """With the hosts that are gone counted in."""
        self.hosts.update({f"gone:{at}": host for at, host in enumerate(self._gone)})
        return replace(super().outcome(), num_crashes=self._num_crashes, num_preempted=self._num_preempted)
