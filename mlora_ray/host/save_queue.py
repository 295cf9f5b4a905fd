"""When an adapter is saved, and what becomes of a job whose save is done, fails, or is its last.

           want                  a writer is free               written
    IDLE ────────▶ DUE ─────────────────────────────▶ WRITING ──────────▶ IDLE, or DUE: more has come meanwhile
                    ▲                                    │
                    │ `retry_at_s` has come              │ storage failed
                    └─────────────── RETRYING ◀──────────┘

A job that is done, asked to leave or has failed is ENDING once its newest step is saved, or cannot be saved at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from mlora_ray.errors import StorageError
from mlora_ray.host.hosted_job import HostedJob
from mlora_ray.host.snapshot_writer import SnapshotWriter
from mlora_ray.types import BundleReport, HostSettings
from mlora_ray.types.backoff import backoff_s

if TYPE_CHECKING:
    from mlora_ray.engine.engine import Engine

FIRST_BACKOFF_S = 0.5  # doubled each time: five attempts take 7.5 s
MAX_BACKOFF_S = 30.0
NUM_WRITERS = 4  # an object store answers slowly, not one at a time


class SaveState(Enum):
    IDLE = auto()  # nothing is to be saved
    DUE = auto()  # it is saved as soon as a writer is free
    WRITING = auto()  # a snapshot is on its way to storage
    RETRYING = auto()  # storage failed; it is due again at `retry_at_s`
    ENDING = auto()  # nothing more will be saved: it leaves this host


@dataclass(slots=True)
class _Save:
    job: HostedJob
    state: SaveState = SaveState.IDLE
    writing: Future[BundleReport] | None = None  # of WRITING
    is_wanted_again: bool = False  # WRITING, and what has come since is to be saved too
    num_failed: int = 0  # attempts in a row
    retry_at_s: float = 0.0  # of RETRYING
    is_waiting: bool = False  # too far ahead of what is committed: it takes no step until that is less


@dataclass(slots=True)
class SavesDone:
    """What one look at the queue came to."""

    reports: list[BundleReport] = field(default_factory=list)  # for placement
    ended: list[HostedJob] = field(default_factory=list)  # they leave: those with a `failure` as failed
    warnings: list[str] = field(default_factory=list)
    num_failed: int = 0  # attempts


class SaveQueue:
    """Of all jobs of a host; the stepping thread calls it. `on_written` is called in a writer's thread."""

    def __init__(
        self,
        settings: HostSettings,
        engine: Engine,
        writer: SnapshotWriter,
        elapsed_s: Callable[[], float],
        on_written: Callable[[], None],
    ) -> None:
        self._save_attempts, self._max_uncommitted_steps = settings.save_attempts, settings.max_uncommitted_steps
        self._engine, self._writer, self._elapsed_s, self._on_written = engine, writer, elapsed_s, on_written
        self._saves: dict[str, _Save] = {}

    def add(self, job: HostedJob) -> None:
        """One that is done already is saved once more: its files may not be there."""
        self._saves[job.name] = _Save(job)
        if self._engine.is_done(job.name):
            self.want(job)

    def remove(self, job: HostedJob) -> None:
        """What is being written of it is reported to nobody."""
        del self._saves[job.name]

    def want(self, job: HostedJob) -> None:
        """Save its newest step."""
        save = self._saves[job.name]
        if save.state is SaveState.WRITING:
            save.is_wanted_again = True
        elif save.state is SaveState.IDLE:
            save.state = SaveState.DUE

    def leave(self, job: HostedJob) -> None:
        """It takes no step more; save it and let it go."""
        self._engine.hold(job.name)
        job.is_leaving = True
        self.want(job)

    def fail(self, job: HostedJob, error: str) -> None:
        """It takes no step more; its last good state is saved where storage allows. The first error counts."""
        self._engine.hold(job.name)
        job.failure = job.failure or error
        save = self._saves[job.name]
        if save.state is SaveState.RETRYING:
            save.state = SaveState.DUE
        self.want(job)

    def advance(self) -> SavesDone:
        """Begin the saves that are due, as many at a time as there are writers, and take in those that are done."""
        done = SavesDone()
        num_free = NUM_WRITERS - sum(save.state is SaveState.WRITING for save in self._saves.values())
        for save in self._saves.values():
            try:
                if self._is_due(save) and num_free > 0:
                    num_free -= 1
                    self._begin(save)
                if save.writing is not None and save.writing.done():
                    done.reports.append(self._take(save))
            except StorageError as error:
                done.num_failed += 1
                done.warnings.append(self._retry(save, error))
            except Exception as error:  # noqa: BLE001 - the tenant's edge: its state cannot be saved
                save.job.failure = save.job.failure or f"{type(error).__name__}: {error}"
                save.state, save.writing = SaveState.ENDING, None
        done.ended = [save.job for save in self._saves.values() if save.state is SaveState.ENDING]
        return done

    def hold_who_is_ahead(self, num_unacknowledged: Mapping[tuple[str, int], int]) -> None:
        """An adapter does not run ahead of what is committed by more than so many steps: storage may be away."""
        for save in self._saves.values():
            job = save.job
            num_ahead = len(job.steps) + num_unacknowledged.get(job.key, 0)
            is_ahead = num_ahead >= self._max_uncommitted_steps
            if is_ahead == save.is_waiting or job.failure or job.is_leaving:
                continue
            save.is_waiting = is_ahead
            (self._engine.hold if is_ahead else self._engine.unhold)(job.name)
            if is_ahead:
                self.want(job)

    def _is_due(self, save: _Save) -> bool:
        is_late = save.state is SaveState.RETRYING and save.retry_at_s <= self._elapsed_s()
        return is_late or save.state is SaveState.DUE

    def _begin(self, save: _Save) -> None:
        job = save.job
        if not self._is_behind(job) and (job.failure or not self._engine.is_done(job.name)):
            save.state = SaveState.ENDING if self._is_last(job) else SaveState.IDLE
            return
        save.writing = self._writer.begin(job)
        save.state, save.is_wanted_again = SaveState.WRITING, False
        save.writing.add_done_callback(lambda _: self._on_written())

    def _take(self, save: _Save) -> BundleReport:
        """Raises what the writer's thread raised: nothing changed."""
        assert save.writing is not None
        writing, save.writing = save.writing, None
        report = writing.result(0)
        save.job.note_saved(report)
        save.num_failed = 0
        if self._is_last(save.job):
            save.state = SaveState.DUE if self._is_behind(save.job) else SaveState.ENDING
        else:
            save.state = SaveState.DUE if save.is_wanted_again else SaveState.IDLE
        return report

    def _retry(self, save: _Save, error: StorageError) -> str:
        """Answers what its user should know. A job that had failed already is not tried again."""
        job = save.job
        save.num_failed += 1
        if job.failure:
            save.state = SaveState.ENDING
            return f"{job.name}: {error}"
        if save.num_failed >= self._save_attempts > 0:
            save.state = SaveState.DUE
            self.fail(job, f"{save.num_failed} attempts: {error}")
            job.is_unsaved = True
            return f"{job.name}: {error}"
        wait_s = backoff_s(save.num_failed, FIRST_BACKOFF_S, MAX_BACKOFF_S)
        save.state, save.retry_at_s = SaveState.RETRYING, self._elapsed_s() + wait_s
        return f"{job.name}: {error}; next attempt in {wait_s:g} s"

    def _is_behind(self, job: HostedJob) -> bool:
        return self._engine.progress(job.name).step > job.saved_step

    def _is_last(self, job: HostedJob) -> bool:
        """Nothing will come after its newest step here."""
        return job.is_leaving or bool(job.failure) or self._engine.is_done(job.name)
