"""What placement holds in memory of jobs and hosts, and how policies and people see it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlora_ray.data.batch_sampler import steps_per_epoch
from mlora_ray.policies.models.step_time_fit import Timing
from mlora_ray.store.records import JobRecord
from mlora_ray.types import Ack, AdapterView, HostInfo, HostReport, HostType, HostView, JobSpec, JobState, Progress
from mlora_ray.types.status import JobStatus, RunStatus

QUEUE = ""  # `Job.goes_to`: back into the queue, whoever takes it


@dataclass(slots=True)
class Job:
    """The mirror of one job's row, and what is known beyond it."""

    record: JobRecord
    tokens_total: int
    kept: list[tuple[int, str]]  # committed bundles whose files are there, oldest first
    state_bytes: int = 0  # 0: unknown
    progress: Progress | None = None
    is_taken: bool = False  # its host has shown that it has the assignment
    is_moving: bool = False  # its state is on its way to its host
    leaves_for: JobState | None = None  # its host was asked to save it and let it go: then it is PAUSED or QUEUED
    num_unread: int = 0  # times in a row that no host could read its files
    waits_until_s: float = 0.0  # before the next attempt
    lost_s: float | None = None  # its host was lost then, and it has taken no new step since
    lost_cause: str = ""
    last_loss: float = math.nan  # of the last committed step

    @property
    def name(self) -> str:
        return self.record.spec.name

    @property
    def num_uncommitted(self) -> int:
        """Steps that its host has shown beyond the last bundle."""
        now = self.progress
        return max(0, now.step - self.record.step) if now and now.epoch == self.record.epoch else 0


@dataclass(slots=True)
class Host:
    """A living host and what waits to be told to it."""

    info: HostInfo
    type: HostType
    report: HostReport
    acks: list[Ack] = field(default_factory=list)
    leaves_at_s: float | None = None  # of a draining node
    is_draining: bool = False
    timing: Timing = field(default_factory=Timing)  # of its rows, against what was predicted

    @property
    def state(self) -> str:
        return "draining" if self.is_draining else "alive"


class Jobs:
    """All jobs by name; those not at an end, and those on each host, without a search."""

    def __init__(self) -> None:
        self._all: dict[str, Job] = {}
        self._open: dict[str, Job] = {}
        self._on: dict[str, dict[str, Job]] = {}

    def put(self, job: Job) -> None:
        if before := self._all.get(job.name):
            self._on.get(before.record.host, {}).pop(job.name, None)
        self._all[job.name] = job
        self._list(job)

    def change(self, job: Job, **values: object) -> None:
        """Change fields of the job's record."""
        self.mirror(job, dataclasses.replace(job.record, **values))  # type: ignore[arg-type]

    def mirror(self, job: Job, record: JobRecord) -> None:
        """The job's record is this one now."""
        self._on.get(job.record.host, {}).pop(job.name, None)
        job.record = record
        self._list(job)

    def __getitem__(self, name: str) -> Job:
        return self._all[name]

    def get(self, name: str) -> Job | None:
        return self._all.get(name)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._all.values())

    def named(self, names: Sequence[str]) -> list[Job]:
        """Those of `names`, or all."""
        return [self._all[n] for n in names] if names else list(self._all.values())

    def open(self) -> Collection[Job]:
        """Those not at an end."""
        return self._open.values()

    def on(self, host: str) -> list[Job]:
        """Those of a host that are not at an end."""
        return list(self._on.get(host, {}).values())

    def hosts(self) -> set[str]:
        """Those that open jobs are on."""
        return {host for host, held in self._on.items() if held}

    def _list(self, job: Job) -> None:
        if job.record.state.is_final:
            self._open.pop(job.name, None)
            return
        self._open[job.name] = job  # keeps its place if it was there
        if job.record.host:
            self._on.setdefault(job.record.host, {})[job.name] = job

    def check_integrity(self) -> None:
        """Raises AssertionError when the lists do not say what the records say."""
        assert set(self._open) == {j.name for j in self if not j.record.state.is_final}
        placed = {(j.record.host, j.name) for j in self if j.record.host and not j.record.state.is_final}
        assert placed == {(host, name) for host, held in self._on.items() for name in held}


def host_views(hosts: Mapping[str, Host], jobs: Jobs) -> tuple[HostView, ...]:
    """Living hosts.

    A host pages between its adapters by itself, so none has a bound (`free_bytes` 0); an adapter that is larger than
    a host's whole adapter memory is refused there, and its job fails with that reason.
    """
    return tuple(
        HostView(
            id=name,
            base=h.info.base,
            device_type=h.info.device_type,
            zone=h.type.zone,
            is_spot=h.type.is_spot,
            state=h.state,
            group=tuple(j.name for j in jobs.on(name)),
            step_s=h.report.step_s,
            host_type=h.type.name,
            numerics=h.info.numerics,
            tokens_per_s=h.report.tokens_per_s,
            leaves_at_s=h.leaves_at_s,
        )
        for name, h in hosts.items()
    )


def adapter_views(jobs: Iterable[Job], now_s: float) -> tuple[AdapterView, ...]:
    """Jobs that are not at an end; one that waits for its storage is not yet there."""
    return tuple(_adapter_view(j) for j in jobs if j.waits_until_s <= now_s)


def run_status(
    jobs: Collection[Job], reports: Sequence[HostReport], elapsed_s: float, phase: str, error: str
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
        device_type=spec.device_type,
        numerics=record.numerics,
    )


def _job_status(job: Job) -> JobStatus:
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
