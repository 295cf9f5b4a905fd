"""What placement holds in memory of jobs and hosts, and how policies and people see it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mlora_ray.engine.cursor import steps_per_epoch
from mlora_ray.store.records import JobRecord
from mlora_ray.types import (
    Ack,
    AdapterView,
    ClusterView,
    HostInfo,
    HostReport,
    HostView,
    JobSpec,
    JobState,
    JobStatus,
    Progress,
    RunStatus,
)


@dataclass(slots=True)
class Job:
    """The mirror of one job's row, and what is known beyond it."""

    record: JobRecord
    tokens_total: int
    kept: list[tuple[int, str]]  # committed bundles whose files are there, oldest first
    state_bytes: int = 0  # 0: unknown
    progress: Progress | None = None
    is_taken: bool = False  # its host has shown that it has the assignment
    goes_to: str | None = None  # leaving its host: for this one, or ("") to pause

    @property
    def name(self) -> str:
        return self.record.spec.name

    def change(self, **values: object) -> None:
        self.record = dataclasses.replace(self.record, **values)  # type: ignore[arg-type]


@dataclass(slots=True)
class Host:
    """A living host and what waits to be told to it."""

    info: HostInfo
    report: HostReport
    acks: list[Ack] = field(default_factory=list)


def cluster_view(jobs: Collection[Job], hosts: Mapping[str, Host], now_s: float) -> ClusterView:
    """Living hosts and jobs that are not at an end.

    A host pages between its adapters by itself, so none has a bound (`free_bytes` 0); an adapter that is larger than
    a host's whole adapter memory is refused there, and its job fails with that reason.
    """
    adapters = tuple(_adapter_view(j) for j in jobs if not j.record.state.is_final)
    groups: dict[str, list[str]] = {}
    for adapter in adapters:
        if adapter.host:
            groups.setdefault(adapter.host, []).append(adapter.id)
    views = tuple(
        HostView(
            id=name,
            base=h.info.base,
            device_type=h.info.device_type,
            group=tuple(groups.get(name, ())),
            step_s=h.report.step_s,
        )
        for name, h in hosts.items()
    )
    return ClusterView(now_s=now_s, hosts=views, adapters=adapters)


def run_status(
    jobs: Collection[Job], reports: Sequence[HostReport], elapsed_s: float, phase: str, error: str
) -> RunStatus:
    """The whole run; tokens of failed jobs are no part of what is to be done."""
    statuses = tuple(_job_status(j) for j in jobs)
    return RunStatus(
        phase=phase,
        jobs=statuses,
        tokens_per_s=sum(r.tokens_per_s for r in reports),
        memory_bytes=sum(r.memory_bytes for r in reports),
        memory_limit_bytes=sum(r.memory_limit_bytes for r in reports),
        token_budget=sum(r.token_budget for r in reports),
        elapsed_s=elapsed_s,
        total_tokens=sum(j.tokens_total for j in jobs if j.record.state is not JobState.FAILED),
        done_tokens=sum(s.num_tokens for s in statuses if s.state is not JobState.FAILED),
        warnings=tuple(r.warning for r in reports if r.warning),
        error=error,
    )


def tokens_total(spec: JobSpec) -> int:
    """Tokens of the whole job: exact for whole data passes, else in proportion."""
    per_epoch = steps_per_epoch(spec.train, spec.train_rows.num_rows)
    return math.ceil(spec.train_rows.num_tokens * spec.total_steps / per_epoch)


def _adapter_view(job: Job) -> AdapterView:
    record, spec = job.record, job.record.spec
    return AdapterView(
        id=job.name,
        base=spec.base.id,
        epoch=record.epoch,
        state=record.state,
        lora_rank=spec.lora.r,
        step_tokens=job.tokens_total / spec.total_steps,
        tokens_done=record.num_tokens,
        tokens_total=job.tokens_total,
        submitted_at_s=record.submitted_at_s,
        state_bytes=job.state_bytes,
        host=record.host or None,
        tenant=spec.tenant,
        priority=spec.priority,
        deadline_at_s=spec.deadline_at_s,
    )


def _job_status(job: Job) -> JobStatus:
    record, now = job.record, job.progress
    is_live = now is not None and not record.state.is_final and now.epoch == record.epoch
    return JobStatus(
        name=job.name,
        state=record.state,
        step=max(record.step, now.step) if now and is_live else record.step,
        total_steps=record.spec.total_steps,
        loss=now.loss if now else math.nan,
        num_tokens=max(record.num_tokens, now.num_tokens) if now and is_live else record.num_tokens,
        tokens_per_s=now.tokens_per_s if now and is_live else 0.0,
        is_resident=bool(now and is_live and now.is_resident),
        host=record.host,
        error=record.error,
    )
