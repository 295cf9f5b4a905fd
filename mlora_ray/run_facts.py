"""What the driver tells the placement actor at the start, and what it gets back at the end."""

from __future__ import annotations

from dataclasses import dataclass

from mlora_ray.store.records import JobRecord
from mlora_ray.types import HostInfo, HostSettings, HostUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSettings:
    """Where a run keeps its things, and its hosts."""

    run_id: str
    command: str
    database_url: str
    out_root: str
    bundle_root: str
    decisions_path: str
    lock_path: str
    policy: str
    hosts: tuple[HostSettings, ...]
    tick_s: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run has come to."""

    records: tuple[JobRecord, ...]
    samples: tuple[tuple[float, float], ...]  # (seconds since the start, tokens/s)
    usage: HostUsage
    hosts: tuple[HostInfo, ...]
