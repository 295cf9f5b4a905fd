"""The hosts of a fleet from launch to end: what is known of each, and how policies and people see it."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, field

from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.jobs.state import Host
from mlora_ray.control.transport import HOST_PREFIX, Line
from mlora_ray.store.records import HostRecord
from mlora_ray.types import BaseSpec, HostInfo, HostReport, HostSettings, HostType, HostView
from mlora_ray.types.status import HostStatus

MAX_LOSSES = 3  # of hosts of a base in a row, without one committed bundle between them: then launching waits
FIRST_BACKOFF_S, MAX_BACKOFF_S = 5.0, 300.0
LEAK_S = 60.0  # over the memory limit for so long: it leaks
TREND_WINDOW_S, TREND_WINDOWS = 600.0, 6  # an hour of nothing but rises
LEAST_RISE = 0.005  # of the memory in use, from one window to the next


@dataclass(slots=True)
class Member:
    """One host from its launch to its end. Times are elapsed ones."""

    settings: HostSettings
    type: HostType
    line: Line
    since_s: float  # launched or adopted
    info: HostInfo | None = None
    was_alive: bool = False  # adopted: it had loaded its base before
    drains: str = ""  # adopted: why it was draining
    asked_s: float | None = None  # of the tick that is not answered yet
    leaks_since_s: float | None = None
    memory: MemoryTrend = field(default_factory=lambda: MemoryTrend())
    is_skew_told: bool = False

    @property
    def base(self) -> str:
        return self.settings.base.id

    def leaks(self, report: HostReport, share: float, now_s: float) -> bool:
        """Whether it has used more than `share` of its memory limit for a minute, or is on its way there for hours."""
        self.memory.add(now_s, report.memory_bytes)
        if 0 < report.memory_limit_bytes * share < self.memory.projected_bytes():
            return True
        if not 0 < report.memory_limit_bytes * share < report.memory_bytes:
            self.leaks_since_s = None
            return False
        self.leaks_since_s = self.leaks_since_s or now_s
        return now_s - self.leaks_since_s > LEAK_S

    def stage(self) -> str:
        """What a host that has not joined is at."""
        if self.line.is_placed():
            return "loads its base"
        cpus = f"{self.settings.num_cpus:g} CPU{'s' if self.settings.num_cpus != 1 else ''}"
        gpus = f" and {self.settings.num_gpus:g} GPU" if self.settings.num_gpus else ""
        labels = ", ".join(f"{k}={v}" for k, v in self.settings.labels)
        return f"waits for a node with {cpus}{gpus} free" + (f" ({labels})" if labels else "")

    def view(self, state: str) -> HostView:
        """For a policy, before it has joined or after it has left."""
        return HostView(
            id=self.settings.id,
            base=self.base,
            device_type=self.type.device,
            zone=self.type.zone,
            is_spot=self.type.is_spot,
            state=state,
            host_type=self.type.name,
        )

    def status(self, host: Host | None, num_jobs: int, now_s: float, trouble: str) -> HostStatus:
        """For people. `host` is placement's knowledge of it, once it has joined."""
        info = self.info
        report = host.report if host else HostReport(host=self.settings.id, base=self.base)
        return HostStatus(
            id=self.settings.id,
            host_type=self.type.name,
            base=self.base,
            state=host.state if host else "starting",
            node_id=info.node_id if info else "",
            node_ip=info.node_ip if info else "",
            pid=info.pid if info else 0,
            device_type=info.device_type if info else self.type.device,
            is_spot=self.type.is_spot,
            num_jobs=num_jobs,
            tokens_per_s=report.tokens_per_s,
            memory_bytes=report.memory_bytes,
            memory_limit_bytes=report.memory_limit_bytes,
            alive_s=now_s - self.since_s,
            stalled_s=report.stalled_s,
            row_tokens=report.row_tokens,
            row_why=report.row_why,
            step_time_drift=host.timing.drift if host else 0.0,
            detail=report.warning if host else self.stage() + (f"; the one before it: {trouble}" if trouble else ""),
        )


class Troubles:
    """What keeps hosts of a base from training, and how long the next launch waits for it."""

    def __init__(self) -> None:
        self._losses: dict[str, int] = {}
        self._commits_seen: dict[str, int] = {}
        self._until_s: dict[str, float] = {}
        self._why: dict[str, str] = {}

    def lost(self, base: str, why: str, commits: int, now_s: float) -> str:
        """A host was lost after so many commits. Answers why launching waits, empty where it does not."""
        is_new = commits > self._commits_seen.get(base, 0)
        losses = 1 if is_new else self._losses.get(base, 0) + 1
        self._commits_seen[base], self._losses[base], self._why[base] = commits, losses, why
        if losses < MAX_LOSSES:
            return ""
        self._wait(base, now_s, losses - MAX_LOSSES)
        return f"{losses} hosts were lost with nothing trained between; the last: {why}"

    def refused(self, base: str, why: str, now_s: float) -> str:
        """A host cannot use its base. Answers why."""
        losses = self._losses.get(base, 0) + 1
        self._losses[base], self._why[base] = losses, why
        self._wait(base, now_s, losses)
        return why

    def _wait(self, base: str, now_s: float, doublings: int) -> None:
        self._until_s[base] = now_s + min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(doublings, 10))

    def may_launch(self, base: str, now_s: float) -> bool:
        return self._until_s.get(base, 0.0) <= now_s

    def why(self, base: str) -> str:
        return self._why.get(base, "")

    def warnings(self, now_s: float) -> tuple[str, ...]:
        waits = [(base, until_s - now_s) for base, until_s in self._until_s.items() if until_s > now_s]
        return tuple(f"no host of {base} for another {left_s:.0f} s: {self._why[base]}" for base, left_s in waits)


class MemoryTrend:
    """The least memory of each of the last windows. What a job or a row takes for a while is no trend: it goes again.

    A leak raises every window's least; `TREND_WINDOWS` rises in a row are one, and it is thought to go on for as many
    windows more.
    """

    def __init__(self) -> None:
        self._least: list[tuple[int, int]] = []  # (number of the window, least bytes), the newest last

    def add(self, now_s: float, used_bytes: int) -> None:
        window = int(now_s // TREND_WINDOW_S)
        if self._least and self._least[-1][0] == window:
            self._least[-1] = (window, min(used_bytes, self._least[-1][1]))
        else:
            self._least = [*self._least[-TREND_WINDOWS:], (window, used_bytes)]

    def projected_bytes(self) -> float:
        """0 where there is no trend. The window that is not over yet does not count."""
        done = [least for _, least in self._least[:-1]]
        if len(done) < TREND_WINDOWS:
            return 0.0
        rises = [later - earlier for earlier, later in itertools.pairwise(done)]
        return done[-1] + sum(rises) if min(rises) > LEAST_RISE * done[0] else 0.0


def host_settings(ours: ServiceSettings, name: str, host_type: HostType, base: BaseSpec) -> HostSettings:
    """What a new host is started with."""
    return HostSettings(
        id=name,
        base=base,
        bundle_root=ours.bundle_root,
        page_dir=ours.page_root,
        device=host_type.device,
        threads=host_type.threads,
        memory_limit_bytes=host_type.memory_limit_bytes,
        adapter_memory_bytes=host_type.adapter_memory_bytes,
        token_budget=host_type.token_budget,
        memory=ours.memory_of(base.id, host_type.device),
        host_type=host_type.name,
        num_cpus=host_type.num_cpus,
        num_gpus=host_type.num_gpus,
        labels=host_type.labels,
        save_attempts=ours.save_attempts,
        max_uncommitted_steps=ours.max_uncommitted_steps,
        probe_uri=ours.probe_uri,
        service=ours.name,
        actor_name=f"{HOST_PREFIX}{ours.name}/{name}/{uuid.uuid4().hex[:8]}",
    )


def gone_status(record: HostRecord) -> HostStatus:
    """A host that is gone, from the database."""
    began_s = record.joined_at_s or record.launched_at_s
    return HostStatus(
        id=record.settings.id,
        host_type=record.settings.host_type,
        base=record.settings.base.id,
        state="gone",
        node_id=record.node_id,
        node_ip=record.node_ip,
        pid=record.pid,
        device_type=record.settings.device,
        alive_s=(record.gone_at_s or began_s) - began_s,
        detail=record.why,
    )


def type_of(record: HostRecord) -> HostType:
    """The type of a host whose settings no longer name it."""
    s = record.settings
    return HostType(name=s.host_type, device=s.device, num_cpus=s.num_cpus, num_gpus=s.num_gpus, labels=s.labels)
