"""The hosts of a service, each once: what placement and fleet know of one from its launch to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from mlora_ray.control.hosts.memory_trend import LEAK_S, MemoryTrend
from mlora_ray.control.transport import HostConnection
from mlora_ray.policies.models.step_time_fit import Timing
from mlora_ray.types import Ack, HostInfo, HostReport, HostSettings, HostType, HostView


class HostState(StrEnum):
    STARTING = "starting"  # launched or adopted; it has not shown yet that its base is loaded
    ALIVE = "alive"
    DRAINING = "draining"  # nobody comes here any more, and everybody leaves
    FENCED = "fenced"  # it has no jobs any more, and ends


@dataclass(slots=True)
class ManagedHost:
    """One host. Times are elapsed ones, but `leaves_at_s`."""

    settings: HostSettings
    type: HostType
    connection: HostConnection
    since_s: float  # launched or adopted
    state: HostState = HostState.STARTING
    was_alive: bool = False  # adopted: it had loaded its base before
    drained_why: str = ""  # adopted: why it was draining
    info: HostInfo | None = None  # what it says of itself, once it has joined
    report: HostReport = field(default_factory=lambda: HostReport(host="", base=""))  # the last one
    timing: Timing = field(default_factory=Timing)  # of its rows, against what was predicted
    acks: list[Ack] = field(default_factory=list)  # for its next tick
    asked_s: float | None = None  # of the tick that is not answered yet
    leaves_at_s: float | None = None  # its node does (Unix epoch, s)
    leaks_since_s: float | None = None
    memory: MemoryTrend = field(default_factory=MemoryTrend)
    is_skew_told: bool = False

    @property
    def name(self) -> str:
        return self.settings.id

    @property
    def base(self) -> str:
        return self.settings.base.id

    @property
    def device_type(self) -> str:
        return self.info.device_type if self.info else self.type.device

    @property
    def numerics(self) -> str:
        """Empty before it has joined."""
        return self.info.numerics if self.info else ""

    @property
    def node_id(self) -> str:
        return self.info.node_id if self.info else ""

    @property
    def node_ip(self) -> str:
        return self.info.node_ip if self.info else ""

    @property
    def is_living(self) -> bool:
        """It has joined and is not fenced: it has jobs, or may have some."""
        return self.state in (HostState.ALIVE, HostState.DRAINING)

    @property
    def is_draining(self) -> bool:
        return self.state is HostState.DRAINING

    @property
    def is_wanted(self) -> bool:
        """It is there or comes, and does not leave."""
        return self.state in (HostState.STARTING, HostState.ALIVE)

    def join(self, info: HostInfo) -> None:
        """It has loaded its base."""
        self.info, self.state = info, HostState.ALIVE
        self.report = HostReport(host=self.name, base=self.base)

    def leaks(self, share: float, now_s: float) -> bool:
        """Whether it has used more than `share` of its memory limit for a minute, or is on its way there for hours."""
        used_bytes, allowed_bytes = self.report.memory_bytes, self.report.memory_limit_bytes * share
        self.memory.add(now_s, used_bytes)
        if 0 < allowed_bytes < self.memory.projected_bytes():
            return True
        if not 0 < allowed_bytes < used_bytes:
            self.leaks_since_s = None
            return False
        self.leaks_since_s = self.leaks_since_s or now_s
        return now_s - self.leaks_since_s > LEAK_S

    def view(self, state: str) -> HostView:
        """For a policy, before it has joined or after it has left."""
        return HostView(
            id=self.name,
            base=self.base,
            device_type=self.type.device,
            zone=self.type.zone,
            is_spot=self.type.is_spot,
            state=state,
            host_type=self.type.name,
        )


class HostTable:
    """By name, in the order of their launch."""

    def __init__(self) -> None:
        self._all: dict[str, ManagedHost] = {}

    def add(self, host: ManagedHost) -> None:
        self._all[host.name] = host

    def remove(self, name: str) -> ManagedHost:
        return self._all.pop(name)

    def __getitem__(self, name: str) -> ManagedHost:
        return self._all[name]

    def get(self, name: str) -> ManagedHost | None:
        return self._all.get(name)

    def __iter__(self) -> Iterator[ManagedHost]:
        """A copy: who iterates may add and remove."""
        return iter(list(self._all.values()))

    def names(self) -> set[str]:
        return set(self._all)

    def living(self) -> list[ManagedHost]:
        return [host for host in self._all.values() if host.is_living]

    def is_living(self, name: str) -> bool:
        host = self._all.get(name)
        return host is not None and host.is_living

    def in_state(self, state: HostState) -> list[ManagedHost]:
        return [host for host in self._all.values() if host.state is state]
