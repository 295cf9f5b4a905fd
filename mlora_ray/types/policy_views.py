"""What a policy sees, and what it answers. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlora_ray.types.hosts import HostType
from mlora_ray.types.jobs import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """A host as a policy sees it."""

    id: str
    base: str
    device_type: str
    zone: str = ""
    is_spot: bool = False
    state: str = "alive"  # alive | draining | dead
    free_bytes: int = 0  # what it can still take, paging to disk included; 0: no bound
    group: tuple[str, ...] = ()
    step_s: float = 0.0
    host_type: str = ""
    numerics: str = ""  # hosts of equal numerics compute equal bits
    tokens_per_s: float = 0.0
    leaves_at_s: float | None = None  # a draining node is gone by then


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterView:
    """A job as a policy sees it."""

    id: str
    base: str
    epoch: int
    state: JobState
    lora_rank: int
    step_tokens: float
    tokens_done: int
    tokens_total: int | None
    submitted_at_s: float
    state_bytes: int  # weights and optimizer moments; 0: unknown
    host: str | None = None
    tenant: str = "default"
    priority: int = 0
    deadline_at_s: float | None = None
    solo_tokens_s: float = 0.0
    device_type: str = ""  # empty: any
    numerics: str = ""  # of the hosts it has trained on; empty: it has not begun
    width: int = 1  # devices it asks for: that many shards train data-parallel, `step_tokens` each
    shards: tuple[str, ...] = ()  # the hosts it is on besides `host`
    row_tokens: float = 0.0  # mean length of its rows; 0: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedStepTime:
    """What hosts' rows have shown: a row of T tokens with n steps takes start_s + token_s * T + adapter_s * n."""

    base: str
    device_type: str
    start_s: float
    token_s: float
    adapter_s: float
    token_budget: int  # of a row, mean of the hosts
    drift: float  # actual over predicted seconds when it was learned; 0: nothing had predicted them
    num_rows: int  # it was learned from


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Everything a policy may know. `now_s` is seconds since the Unix epoch, or virtual time."""

    now_s: float
    hosts: tuple[HostView, ...] = ()
    adapters: tuple[AdapterView, ...] = ()
    pending_hosts: tuple[HostView, ...] = ()
    prices: tuple[tuple[str, float], ...] = ()  # (host type, currency units per hour)
    host_types: tuple[HostType, ...] = ()
    profile_id: str = ""
    step_times: tuple[LearnedStepTime, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    adapter: str
    host: str
    epoch: int
    shards: tuple[str, ...] = ()  # further hosts, for an adapter whose `width` is above 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    adapter: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    adapter: str
    host: str
    epoch: int
    shards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetGroup:
    host: str
    group: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchHost:
    base: str
    device_type: str
    is_spot: bool = False
    zone: str = ""
    host_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainHost:
    host: str


Action = Place | Pause | Migrate | SetGroup | LaunchHost | DrainHost


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """A policy's own memory between decisions, as plain data; FIFO needs none."""

    items: tuple[tuple[str, float], ...] = field(default=())
