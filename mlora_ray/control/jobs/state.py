"""What placement knows of jobs, in memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from mlora_ray.types import JobState, Progress
from mlora_ray.types.records import JobRecord


@dataclass(slots=True)
class JobEntry:
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
    def wants_to_train(self) -> bool:
        """It is on a host or waits for one."""
        return self.record.state.is_on_host or self.record.state is JobState.QUEUED

    @property
    def base(self) -> str:
        return self.record.spec.base.id

    @property
    def device_type(self) -> str:
        """Empty: any."""
        return self.record.spec.device_type

    @property
    def numerics(self) -> str:
        """Empty: it has not begun."""
        return self.record.numerics

    @property
    def num_uncommitted(self) -> int:
        """Steps that its host has shown beyond the last bundle."""
        now = self.progress
        return max(0, now.step - self.record.step) if now and now.epoch == self.record.epoch else 0


class JobTable:
    """All jobs by name; those not at an end, and those on each host, without a search."""

    def __init__(self) -> None:
        self._all: dict[str, JobEntry] = {}
        self._open: dict[str, JobEntry] = {}
        self._on: dict[str, dict[str, JobEntry]] = {}

    def put(self, job: JobEntry) -> None:
        if before := self._all.get(job.name):
            self._on.get(before.record.host, {}).pop(job.name, None)
        self._all[job.name] = job
        self._list(job)

    def change(self, job: JobEntry, **values: object) -> None:
        """Change fields of the job's record."""
        self.mirror(job, dataclasses.replace(job.record, **values))  # type: ignore[arg-type]

    def mirror(self, job: JobEntry, record: JobRecord) -> None:
        """The job's record is this one now."""
        self._on.get(job.record.host, {}).pop(job.name, None)
        job.record = record
        self._list(job)

    def __getitem__(self, name: str) -> JobEntry:
        return self._all[name]

    def get(self, name: str) -> JobEntry | None:
        return self._all.get(name)

    def __iter__(self) -> Iterator[JobEntry]:
        return iter(self._all.values())

    def named(self, names: Sequence[str]) -> list[JobEntry]:
        """Those of `names`, or all."""
        return [self._all[n] for n in names] if names else list(self._all.values())

    def open(self) -> Collection[JobEntry]:
        """Those not at an end."""
        return self._open.values()

    def on(self, host: str) -> list[JobEntry]:
        """Those of a host that are not at an end."""
        return list(self._on.get(host, {}).values())

    def hosts(self) -> set[str]:
        """Those that open jobs are on."""
        return {host for host, jobs in self._on.items() if jobs}

    def _list(self, job: JobEntry) -> None:
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
        assert placed == {(host, name) for host, jobs in self._on.items() for name in jobs}
