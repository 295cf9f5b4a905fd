"""What a simulation is given and what comes out: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SimJob:
    """One job of a trace with its work anchored: alone, on all its devices, it takes `duration_s`."""

    id: str
    submit_s: float
    duration_s: float
    width: int
    rows: int  # of one step on one device
    row_tokens: float  # mean length of a row
    lora_rank: int
    base: str
    tenant: str
    tokens: float  # of the whole job
    solo_tokens_s: float  # alone on one device
    declared_tokens: float | None  # what policies are told; None: nothing
    state_bytes: int = 0
    deadline_s: float | None = None
    is_hard: bool = False
    priority: int = 0
    device_type: str = ""  # it asks for; empty: any
    numerics: str = ""  # of the hosts it has trained on

    @property
    def step_tokens(self) -> float:
        return self.rows * self.row_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that changes take. Measured on one node but `boot_s`, which is assumed."""

    place_s: float = 4.4
    pause_s: float = 4.4
    migrate_s: float = 4.4
    base_s: float = 22.7
    boot_s: float = 120.0
    bundle_steps: int = 50  # a crash loses what came after the last bundle


FREE = Costs(place_s=0.0, pause_s=0.0, migrate_s=0.0, base_s=0.0, boot_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimHost:
    """One device that holds one base."""

    id: str
    base: str
    device_type: str = ""
    zone: str = ""
    is_spot: bool = False
    host_type: str = ""
    numerics: str = ""
    price_per_hour: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """What became of one job."""

    job: SimJob
    started_s: float
    finished_s: float
    num_moves: int  # places, pauses and migrations
    hosts: tuple[str, ...]
    lost_tokens: float = 0.0

    @property
    def completion_s(self) -> float:
        return self.finished_s - self.job.submit_s

    @property
    def wait_s(self) -> float:
        return self.started_s - self.job.submit_s

    @property
    def slowdown(self) -> float:
        return self.completion_s / self.job.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """One adapter on one host for a while, for the Gantt chart."""

    job: str
    host: str
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One simulation."""

    policy: str
    jobs: tuple[JobOutcome, ...]
    stays: tuple[Stay, ...]
    busy: tuple[tuple[float, int], ...]  # (from this second on, hosts with an adapter)
    busy_s: float  # host seconds with a stepping adapter
    allocated_s: float  # host seconds with an adapter
    host_s: float  # host seconds that were paid for
    cost: float
    tokens: float
    makespan_s: float
    num_events: int
    num_decisions: int
    num_placed: int
    num_paused: int
    num_migrated: int
    decision_s: tuple[float, ...]
    num_crashes: int = 0
    num_preempted: int = 0
