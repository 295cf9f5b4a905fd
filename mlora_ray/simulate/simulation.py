"""The discrete-event cluster: events on a virtual clock, the policy asked after each, its actions carried out.

Fluid: between two events every adapter trains at a constant rate, `width * step_tokens / (the slowest of its hosts'
step times)`. What a change costs is in `Costs`: an adapter that is placed or moved stands still for so long, while
its new neighbours go on.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Sequence

from mlora_ray.errors import MloraError
from mlora_ray.policies.contract import Policy, validate_actions
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.hosts_and_adapters import FUSED, Adapter, Host
from mlora_ray.simulate.results import Costs, JobOutcome, Outcome, SimHost, SimJob, Stay
from mlora_ray.types import Action, ClusterView, Migrate, Pause, Place, PolicyState
from mlora_ray.types.serialization import dumps

ARRIVE, READY, FINISH, WAKE, HOST = range(5)
MAX_IDLE_WAKES = 300  # a day of `ours`
MAX_SHOWN = 4000  # characters of a view in an error


class SimulationError(MloraError):
    """A policy raised, broke an invariant or left adapters waiting for ever; shows the view."""


class Simulation:
    """One policy on one list of jobs. `run` answers once."""

    def __init__(
        self,
        jobs: Sequence[SimJob],
        hosts: Iterable[SimHost],
        step_times: StepTimes,
        policy: Policy,
        costs: Costs | None = None,
    ) -> None:
        self.jobs, self.policy, self.step_times = jobs, policy, step_times
        self.costs = costs or Costs()
        self.rule = getattr(policy, "step_rule", FUSED)
        self.wake_s = float(getattr(policy, "wake_s", 0.0))
        self.now_s = min((j.submit_s for j in jobs), default=0.0)
        self.began_s = self.now_s
        self.hosts = {h.id: Host(h, step_times.of(h.base, h.device_type), self.now_s) for h in hosts}
        self.active: dict[str, Adapter] = {}
        self.num_to_come = len(jobs)
        self.state = PolicyState()
        self.ended: list[JobOutcome] = []
        self.stays: list[Stay] = []
        self.busy: list[tuple[float, int]] = []
        self.decision_s: list[float] = []
        self.counts = {Place: 0, Pause: 0, Migrate: 0}
        self.num_events = self.num_decisions = self._order = 0
        self._events: list[tuple[float, int, int, object, int]] = []
        self._woken_s = -math.inf
        self._num_idle = 0  # decisions in a row that came to nothing
        self.touched: dict[str, Host] = {}
        for job in jobs:
            self.push(job.submit_s, ARRIVE, job)

    def start_at(self, now_s: float, begun: Iterable[tuple[Adapter, Sequence[str]]]) -> None:
        """Begin in the middle of things: these adapters are here, each on its hosts or waiting."""
        self.now_s = self.began_s = now_s
        for host in self.hosts.values():
            host.at_s = host.launched_s = now_s
        for adapter, hosts in begun:
            self.active[adapter.job.id] = adapter
            adapter.at_s = adapter.since_s = adapter.free_at_s = now_s
            if hosts:
                self._join(adapter, tuple(hosts), now_s)
        self._woken_s = now_s
        self.push(now_s, WAKE, None)

    def run(self) -> Outcome:
        """Until every job is done. Raises SimulationError."""
        while self._events and (self.active or self.num_to_come):
            self.now_s = self._events[0][0]
            is_asked = False
            while self._events and self._events[0][0] <= self.now_s:
                _, _, kind, subject, version = heapq.heappop(self._events)
                self.num_events += 1
                is_asked = self._handle(kind, subject, version) or is_asked
            if is_asked and self.active:
                self._decide()
            self.retime()
            self._check_progress()
        if self.active:
            raise SimulationError(f"{self.policy.name} leaves {len(self.active)} adapters for ever: {self.shown()}")
        return self.outcome()

    def _check_progress(self) -> None:
        """A policy that only asks to be woken, while nobody trains, comes or goes, leaves its adapters for ever."""
        is_idle = (
            all(kind == WAKE for _, _, kind, _, _ in self._events) if len(self._events) < MAX_IDLE_WAKES else False
        )
        self._num_idle = self._num_idle + 1 if is_idle and self.active else 0
        if self._num_idle > MAX_IDLE_WAKES:
            raise SimulationError(f"{self.policy.name} leaves {len(self.active)} adapters for ever: {self.shown()}")

    def push(self, at_s: float, kind: int, subject: object, version: int = 0) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_s, self._order, kind, subject, version))

    def view(self) -> ClusterView:
        """What the policy sees now."""
        now_s = self.now_s
        return ClusterView(
            now_s=now_s,
            hosts=tuple(h.seen() for h in self.hosts.values() if h.state in ("alive", "draining")),
            adapters=tuple(a.seen(now_s) for a in self.active.values()),
            profile_id=self.step_times.id,
        )

    # Events: each answers whether the policy is to be asked.

    def _handle(self, kind: int, subject: object, version: int) -> bool:
        if kind == ARRIVE:
            assert isinstance(subject, SimJob)
            self.active[subject.id] = Adapter(subject)
            self.num_to_come -= 1
            return True
        if kind == WAKE:
            return self.now_s >= self._woken_s
        if kind == HOST:
            return self.host_event(subject)
        assert isinstance(subject, Adapter)
        if kind == READY:
            if version == subject.epoch:
                subject.started_s = min(subject.started_s, self.now_s)
                self._touch(subject)
            return False
        if version != subject.version:
            return False
        subject.advance(self.now_s)
        self.end(subject)
        return True

    def host_event(self, subject: object) -> bool:
        """For clusters whose hosts come and go."""
        return False

    def end(self, adapter: Adapter) -> None:
        self.leave(adapter)
        del self.active[adapter.job.id]
        outcome = JobOutcome(
            job=adapter.job,
            started_s=adapter.started_s,
            finished_s=self.now_s,
            num_moves=adapter.num_moves,
            hosts=tuple(adapter.seen_hosts),
            lost_tokens=adapter.lost,
        )
        self.ended.append(outcome)

    # Decisions.

    def _decide(self) -> None:
        view = self.view()
        before = time.perf_counter()
        try:
            actions, self.state = self.policy.decide(view, self.state)
        except Exception as error:
            raise SimulationError(f"{self.policy.name} raised {error!r} on {self.shown()}") from error
        self.decision_s.append(time.perf_counter() - before)
        self.num_decisions += 1
        self.carry_out(view, actions)
        if self.wake_s and self.active:
            self._woken_s = self.now_s + self.wake_s
            self.push(self._woken_s, WAKE, None)

    def carry_out(self, view: ClusterView, actions: list[Action]) -> None:
        """Do what the policy asks. Raises SimulationError where it may not."""
        if not actions:
            return
        _, refused = validate_actions(view, actions)
        if refused:
            raise SimulationError(f"{self.policy.name}: {refused[0].action}: {refused[0].why}; on {self.shown()}")
        for action in actions:
            if isinstance(action, Pause):
                adapter = self.active[action.adapter]
                self.leave(adapter)
                adapter.free_at_s = self.now_s + self.costs.pause_s
            elif isinstance(action, Place | Migrate):
                adapter = self.active[action.adapter]
                cost_s = self.costs.place_s if isinstance(action, Place) else self.costs.migrate_s
                self.leave(adapter)
                self._join(adapter, (action.host, *action.shards), max(self.now_s, adapter.free_at_s) + cost_s)
            if type(action) in self.counts:
                self.counts[type(action)] += 1
                self.active[action.adapter].num_moves += 1  # type: ignore[union-attr]

    def leave(self, adapter: Adapter) -> None:
        """Off its hosts; what it has trained stays."""
        adapter.advance(self.now_s)
        for host in adapter.hosts:
            host.account(self.now_s)
            del host.group[adapter.job.id]
            self.touched[host.spec.id] = host
            stay = Stay(job=adapter.job.id, host=host.spec.id, from_s=adapter.since_s, to_s=self.now_s)
            self.stays.append(stay)
        adapter.hosts, adapter.rate, adapter.ready_s, adapter.view = (), 0.0, math.inf, None
        adapter.epoch += 1
        adapter.version += 1

    def _join(self, adapter: Adapter, hosts: tuple[str, ...], ready_s: float) -> None:
        adapter.hosts = tuple(self.hosts[h] for h in hosts)
        adapter.ready_s, adapter.since_s = ready_s, self.now_s
        for host in adapter.hosts:
            host.account(self.now_s)
            host.group[adapter.job.id] = adapter
            host.view = None
        adapter.seen_hosts.update(dict.fromkeys(hosts))
        self._touch(adapter)
        self.push(ready_s, READY, adapter, adapter.epoch)

    # Rates.

    def _touch(self, adapter: Adapter) -> None:
        for host in adapter.hosts:
            self.touched[host.spec.id] = host

    def retime(self) -> None:
        """New step times of the hosts that changed, and new ends of everyone on them."""
        if not self.touched:
            return
        now_s, affected = self.now_s, {}
        for host in self.touched.values():
            host.account(now_s)
            host.retime(now_s, self.rule)
            affected.update(host.group)
        self.touched = {}
        for adapter in affected.values():
            if adapter.ready_s > now_s:
                continue
            adapter.advance(now_s)
            job = adapter.job
            slowest = max(h.step_s for h in adapter.hosts)
            rate = len(adapter.hosts) * job.step_tokens / slowest
            if rate == adapter.rate:
                continue
            adapter.rate = rate
            adapter.version += 1
            left = job.tokens - adapter.done
            self.push(now_s + max(0.0, left) / rate, FINISH, adapter, adapter.version)
        self.busy.append((now_s, sum(bool(h.group) for h in self.hosts.values())))

    def outcome(self) -> Outcome:
        """What came out, once everyone has ended."""
        for host in self.hosts.values():
            host.account(self.now_s)
        hosts = self.hosts.values()
        return Outcome(
            policy=self.policy.name,
            jobs=tuple(sorted(self.ended, key=lambda e: (e.job.submit_s, e.job.id))),
            stays=tuple(self.stays),
            busy=tuple(self.busy),
            busy_s=sum(h.busy_s for h in hosts),
            allocated_s=sum(h.allocated_s for h in hosts),
            host_s=sum(h.alive_s for h in hosts),
            cost=sum(h.alive_s / 3600 * h.spec.price_per_hour for h in hosts),
            tokens=sum(e.job.tokens for e in self.ended),
            makespan_s=self.now_s - self.began_s,
            num_events=self.num_events,
            num_decisions=self.num_decisions,
            num_placed=self.counts[Place],
            num_paused=self.counts[Pause],
            num_migrated=self.counts[Migrate],
            decision_s=tuple(self.decision_s),
        )

    def shown(self) -> str:
        """The view as JSON, cut off."""
        return dumps(self.view())[:MAX_SHOWN]
