"""Jobs and hosts as policies and people see them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from mlora_ray.control.hosts.managed_host import ManagedHost
from mlora_ray.control.jobs.state import JobEntry, JobTable
from mlora_ray.types import AdapterView, HostReport, HostView, JobState
from mlora_ray.types.status import JobStatus, RunStatus


def host_views(hosts: Iterable[ManagedHost], jobs: JobTable) -> tuple[HostView, ...]:
    """Living hosts.

    A host pages between its adapters by itself, so none has a bound (`free_bytes` 0); an adapter that is larger than
    a host's whole adapter memory is refused there, and its job fails with that reason.
    """
    return tuple(
        HostView(
            id=h.name,
            base=h.base,
            device_type=h.device_type,
            zone=h.type.zone,
            is_spot=h.type.is_spot,
            state=h.state,
            group=tuple(j.name for j in jobs.on(h.name)),
            step_s=h.report.step_s,
            host_type=h.type.name,
            numerics=h.numerics,
            tokens_per_s=h.report.tokens_per_s,
            leaves_at_s=h.leaves_at_s,
        )
        for h in hosts
    )


def adapter_views(jobs: Iterable[JobEntry], now_s: float) -> tuple[AdapterView, ...]:
    """Jobs that are not at an end; one that waits for its storage is not yet there."""
    return tuple(_adapter_view(j) for j in jobs if j.waits_until_s <= now_s)


def run_status(
    jobs: Collection[JobEntry], reports: Sequence[HostReport], elapsed_s: float, phase: str, error: str
) -> RunStatus:
    """These jobs; tokens of failed and cancelled ones are no part of what is to be done, nor is other hosts' rate."""
    statuses = tuple(_job_status(j) for j in jobs)
    theirs = {j.record.host for j in jobs if not j.record.state.is_final}
    given_up = (JobState.FAILED, JobState.CANCELLED)
    return RunStatus(
        phase=phase,
        jobs=statuses,
        tokens_per_s=sum(r.tokens_per_s for r in reports if r.host in theirs),
        memory_bytes=sum(r.memory_bytes for r in reports),
        memory_limit_bytes=sum(r.memory_limit_bytes for r in reports),
        token_budget=sum(r.token_budget for r in reports),
        elapsed_s=elapsed_s,
        total_tokens=sum(j.tokens_total for j in jobs if j.record.state not in given_up),
        done_tokens=sum(s.num_tokens for s in statuses if s.state not in given_up),
        warnings=tuple(r.warning for r in reports if r.warning),
        error=error,
    )


def _adapter_view(job: JobEntry) -> AdapterView:
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
        device_type=spec.device_type,
        numerics=record.numerics,
    )


def _job_status(job: JobEntry) -> JobStatus:
    record, now = job.record, job.progress
    is_live = now is not None and not record.state.is_final and now.epoch == record.epoch
    return JobStatus(
        name=job.name,
        state=record.state,
        step=max(record.step, now.step) if now and is_live else record.step,
        total_steps=record.spec.total_steps,
        loss=now.loss if now and not math.isnan(now.loss) else job.last_loss,
        num_tokens=max(record.num_tokens, now.num_tokens) if now and is_live else record.num_tokens,
        tokens_per_s=now.tokens_per_s if now and is_live else 0.0,
        is_resident=bool(now and is_live and now.is_resident),
        host=record.host,
        error=record.error,
    )
