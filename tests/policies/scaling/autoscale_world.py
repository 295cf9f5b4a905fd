"""A cluster that does what the autoscaler says: hosts boot, train, drain and die; jobs come, run and end."""

from __future__ import annotations

import dataclasses
from collections import Counter

from mlora_ray.policies.scaling.autoscale import AutoscaleState, decide
from mlora_ray.types import (
    AdapterView,
    AutoscaleSettings,
    ClusterView,
    DrainHost,
    HostType,
    HostView,
    JobState,
    LaunchHost,
)

SPOT = HostType(name="spot", is_spot=True, price_per_hour=1.0, max_hosts=99)
STEADY = HostType(name="steady", price_per_hour=3.0, max_hosts=99)
GPU = HostType(name="gpu", device="cuda", price_per_hour=9.0, max_hosts=99)


def make_job(name: str, **values: object) -> AdapterView:
    plain = AdapterView(
        id=name,
        base="b1",
        epoch=0,
        state=JobState.QUEUED,
        lora_rank=8,
        step_tokens=10.0,
        tokens_done=0,
        tokens_total=100_000,
        submitted_at_s=0.0,
        state_bytes=10,
    )
    return dataclasses.replace(plain, **values)  # type: ignore[arg-type]


def make_host(name: str, **values: object) -> HostView:
    return dataclasses.replace(HostView(id=name, base="b1", device_type="cpu", host_type="steady"), **values)  # type: ignore[arg-type]


class World:
    """Seconds go by in ticks of `tick_s`. A type's hosts compute the numerics `bits of <type>`."""

    def __init__(
        self,
        settings: AutoscaleSettings,
        host_types: tuple[HostType, ...] = (STEADY,),
        *,
        boot_s: float = 60.0,
        drain_s: float = 3.0,
        speed: float = 100.0,
        tick_s: float = 1.0,
        now_s: float = 1000.0,
    ) -> None:
        self.settings, self.host_types = settings, {t.name: t for t in host_types}
        self.boot_s, self.drain_s, self.speed, self.tick_s = boot_s, drain_s, speed, tick_s
        self.boot_times: dict[str, float] = {}  # of host types that take another time
        self.state, self.now_s, self.number = AutoscaleState(), now_s, 0
        self.jobs: dict[str, AdapterView] = {}
        self.hosts: dict[str, HostView] = {}
        self.ready_at_s: dict[str, float] = {}
        self.gone_at_s: dict[str, float] = {}
        self.log: list[tuple[float, str, str]] = []  # (seconds, launch or drain, host)
        self.host_seconds: dict[str, float] = {}

    # -- what happens

    def submit(self, *names: str, **values: object) -> None:
        for name in names:
            self.jobs[name] = make_job(name, submitted_at_s=self.now_s, **values)

    def lose(self, host: str) -> None:
        del self.hosts[host]
        self._unplace(host)

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / self.tick_s)):
            self.tick()

    def tick(self) -> None:
        self._time_goes_by()
        self._place()
        actions, self.state = decide(self.view(), self.settings, self.state)
        for action in actions:
            self._drain(action) if isinstance(action, DrainHost) else self._launch(action)
        self.check_budget()

    # -- what is seen

    @property
    def pending(self) -> list[HostView]:
        return [h for h in self.hosts.values() if self.ready_at_s[h.id] > self.now_s and h.state == "alive"]

    @property
    def alive(self) -> list[HostView]:
        return [h for h in self.hosts.values() if self.ready_at_s[h.id] <= self.now_s and h.state == "alive"]

    @property
    def staying(self) -> list[HostView]:
        return [h for h in self.hosts.values() if h.state == "alive"]

    def counts(self, kind: str) -> int:
        return sum(what == kind for _, what, _ in self.log)

    def view(self) -> ClusterView:
        pending = {h.id for h in self.pending}
        return ClusterView(
            now_s=self.now_s,
            hosts=tuple(self._seen(h) for h in self.hosts.values() if h.id not in pending),
            pending_hosts=tuple(self.pending),
            adapters=tuple(self.jobs.values()),
            host_types=tuple(self.host_types.values()),
        )

    def check_budget(self) -> None:
        """Everything that exists costs: what starts, runs and drains."""
        held = self.hosts.values()
        cost = sum(self.host_types[h.host_type].price_per_hour for h in held)
        assert len(held) <= self.settings.max_hosts
        assert self.settings.max_cost_per_hour == 0 or cost <= self.settings.max_cost_per_hour + 1e-6
        for name, number in Counter(h.host_type for h in held).items():
            assert number <= self.host_types[name].max_hosts

    # -- how the world goes on

    def _seen(self, host: HostView) -> HostView:
        group = tuple(j.id for j in self.jobs.values() if j.host == host.id and not j.state.is_final)
        speed = self.speed if group else 0.0
        return dataclasses.replace(host, group=group, tokens_per_s=speed, numerics=f"bits of {host.host_type}")

    def _time_goes_by(self) -> None:
        self.now_s += self.tick_s
        for host in [h for h, at_s in self.gone_at_s.items() if at_s <= self.now_s]:
            del self.gone_at_s[host]
            if host in self.hosts:
                self.lose(host)
        for host in self.hosts.values():
            self.host_seconds[host.host_type] = self.host_seconds.get(host.host_type, 0.0) + self.tick_s
        for host in self.alive:
            held = [j for j in self.jobs.values() if j.host == host.id]
            for job in held:
                self._train(job, host, self.speed * self.tick_s / len(held))

    def _train(self, job: AdapterView, host: HostView, tokens: float) -> None:
        done = min(job.tokens_total or 0, job.tokens_done + int(tokens))
        job = dataclasses.replace(job, tokens_done=done, state=JobState.TRAINING, numerics=f"bits of {host.host_type}")
        if done == job.tokens_total:
            job = dataclasses.replace(job, state=JobState.SUCCEEDED, host=None)
        self.jobs[job.id] = job

    def _place(self) -> None:
        """Spread the jobs evenly over the hosts that can take them, those that run already included."""
        load = Counter(j.host for j in self.jobs.values() if j.host)
        alive = self.alive
        for job in [j for j in self.jobs.values() if not j.state.is_final and j.state is not JobState.PAUSED]:
            fits = [
                h
                for h in alive
                if h.base == job.base
                and job.device_type in ("", h.device_type)
                and job.numerics in ("", f"bits of {h.host_type}")
            ]
            best = min(fits, key=lambda h: (load[h.id], h.id), default=None)
            if best and (job.host is None or load[best.id] + 1 < load[job.host]):
                load.update({best.id: 1, job.host: -1} if job.host else {best.id: 1})
                self.jobs[job.id] = dataclasses.replace(job, host=best.id, state=JobState.PLACED)

    def _launch(self, action: LaunchHost) -> None:
        kind = self.host_types[action.host_type]
        assert (action.device_type, action.is_spot, action.zone) == (kind.device, kind.is_spot, kind.zone)
        name = f"host-{self.number}"
        self.number += 1
        self.hosts[name] = make_host(
            name, base=action.base, device_type=kind.device, host_type=kind.name, is_spot=kind.is_spot
        )
        self.ready_at_s[name] = self.now_s + self.boot_times.get(kind.name, self.boot_s)
        self.log.append((self.now_s, "launch", name))

    def _drain(self, action: DrainHost) -> None:
        host = self.hosts[action.host]
        if host.state == "alive":
            self.hosts[host.id] = dataclasses.replace(host, state="draining")
            self.gone_at_s[host.id] = self.now_s + self.drain_s
            self.log.append((self.now_s, "drain", host.id))
            self._unplace(host.id)

    def _unplace(self, host: str) -> None:
        for job in [j for j in self.jobs.values() if j.host == host]:
            state = job.state if job.state is JobState.PAUSED else JobState.QUEUED
            self.jobs[job.id] = dataclasses.replace(job, host=None, state=state)
