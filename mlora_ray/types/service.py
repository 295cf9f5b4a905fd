"""What the driver tells the placement actor, and what it gets back at the end."""

from __future__ import annotations

from dataclasses import dataclass

from mlora_ray.types import ClusterView, HostInfo, HostUsage, JobSpec, PolicyState
from mlora_ray.types.records import JobRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """Jobs to queue: new ones, and again those that had stopped."""

    specs: tuple[JobSpec, ...]
    state_bytes: tuple[tuple[str, int], ...] = ()  # (job, bytes of its adapter and optimizer)
    command: str = ""
    job_file: str = ""  # for messages


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySnapshot:
    """What the policy sees now, and which policy it is."""

    view: ClusterView
    policy: str
    policy_state: PolicyState


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run has come to."""

    records: tuple[JobRecord, ...]
    samples: tuple[tuple[float, float], ...]  # (seconds since the start, tokens/s)
    usage: HostUsage
    hosts: tuple[HostInfo, ...]
