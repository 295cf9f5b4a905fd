"""The hosts of a fleet from launch to end: what is known of each, and how policies and people see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlora_ray.control.hosts.memory_trend import LEAK_S, MemoryTrend
from mlora_ray.control.jobs.state import HostEntry
from mlora_ray.control.transport import HostConnection
from mlora_ray.types import HostInfo, HostReport, HostSettings, HostType, HostView
from mlora_ray.types.status import HostStatus


@dataclass(slots=True)
class ManagedHost:
    """One host from its launch to its end. Times are elapsed ones."""

    settings: HostSettings
    type: HostType
    line: HostConnection
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

    def status(self, host: HostEntry | None, num_jobs: int, now_s: float, trouble: str) -> HostStatus:
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
