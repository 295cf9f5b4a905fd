"""What a host does between two ticks: train what it was given, save, evaluate, report. Never imports ray.

One thread calls `advance` in a loop; `assign`, `release`, `acknowledge`, `report` and `call` may come from any
thread and never wait for a step. One adapter's failure, of training or of storage, is its own.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from mlora_ray.clock import Clock, SystemClock
from mlora_ray.errors import MloraError, StorageError
from mlora_ray.host import loading
from mlora_ray.host.cross_evaluation import cross_evaluate
from mlora_ray.host.hosted_job import HostedJob
from mlora_ray.host.mailbox import Mailbox
from mlora_ray.host.progress_report import ProgressReport
from mlora_ray.host.save_queue import NUM_WRITERS, SaveQueue
from mlora_ray.host.snapshot_writer import SnapshotWriter
from mlora_ray.types import (
    Ack,
    Arrival,
    Assignment,
    CrossLosses,
    CrossRequest,
    FailureReport,
    HostReport,
    HostSettings,
    MovedState,
    Release,
    StepReport,
)

if TYPE_CHECKING:
    from mlora_ray.engine.engine import Engine

T = TypeVar("T")

log = logging.getLogger(__name__)


class HostRuntime:
    """Jobs of one host over one engine."""

    def __init__(
        self, settings: HostSettings, engine: Engine, clock: Clock | None = None, writer: Executor | None = None
    ) -> None:
        self._settings, self._engine, self._clock = settings, engine, clock or SystemClock()
        self._base = engine.base.spec.id
        self._elapsed_s = self._clock.elapsed_s
        self._mail = Mailbox()
        self._jobs: dict[str, HostedJob] = {}
        self._writer = writer or ThreadPoolExecutor(NUM_WRITERS, thread_name_prefix="saving")
        snapshots = SnapshotWriter(engine, settings.bundle_root, self._writer)
        self._saves = SaveQueue(settings, engine, snapshots, self._elapsed_s, on_written=self._mail.wake)
        self._progress = ProgressReport(settings, engine, self._mail, self._elapsed_s)
        self._moved_s = self._elapsed_s()  # when the stepping thread last came round

    # -- callers, any thread

    def assign(self, assignments: tuple[Assignment, ...]) -> None:
        """Train these. The same job under the same epoch twice is one."""
        self._mail.post(assignments)

    def release(self, releases: tuple[Release, ...]) -> None:
        """Save these at their step boundary and let them go."""
        self._mail.post(releases)

    def acknowledge(self, acks: tuple[Ack, ...]) -> None:
        self._mail.acknowledge(acks)

    def set_ownership(self, owned: frozenset[tuple[str, int]] | None) -> None:
        """Let go of whatever else is here: it was fenced off while this host was out of touch."""
        self._mail.set_ownership(owned)

    def report(self) -> HostReport:
        """Unacknowledged reports and everybody's progress."""
        stalled_s = max(0.0, self._elapsed_s() - self._moved_s)
        answer = self._mail.answer(self._settings.id, self._base)
        return dataclasses.replace(answer, now_s=self._clock.now_s(), stalled_s=stalled_s)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run `cross_evaluate` or `release_state` between two steps of the stepping thread."""
        return self._mail.call(function)

    def receive(self, assignment: Assignment, moved: MovedState) -> Future[None]:
        """Train this, from the state of the host it was on."""
        self._mail.expect(assignment)
        return self._mail.call(lambda: self._admit(assignment, moved))

    # -- the stepping thread

    def advance(self) -> bool:
        """Take orders, run one engine step, do what saving is due. False: nothing to do, see `wait`."""
        for name in self._mail.fenced_jobs(job.key for job in self._jobs.values()):
            self._drop(self._jobs[name])
        self._take_orders()
        self._save()
        self._saves.hold_who_is_ahead(self._mail.num_unacknowledged())
        is_busy = self._engine.has_work
        if is_busy:
            self._step()
            self._save()
        self._progress.show(self._jobs.values(), is_due=not is_busy)
        self._moved_s = self._elapsed_s()
        return is_busy

    def wait(self, timeout_s: float = 0.2) -> None:
        self._mail.wait(timeout_s)
        self._moved_s = self._elapsed_s()

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        """Every adapter on the first `max_rows` evaluation rows of every job. Raises StorageError."""
        self._moved_s = math.inf  # its caller waits for as long as it takes
        return cross_evaluate(self._engine, requests, max_rows)

    def close(self) -> None:
        """Give back the page directory. No thread steps any more."""
        self._writer.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    # -- orders

    def _take_orders(self) -> None:
        for order in self._mail.take():
            if isinstance(order, Assignment):
                self._admit(order)
            elif isinstance(order, Release):
                job = self._jobs.get(order.job)
                if job and job.assignment.epoch == order.epoch and not job.is_leaving:
                    self._saves.leave(job)
            else:
                order()

    def release_state(self, name: str, epoch: int) -> MovedState:
        """Give an adapter away, with every step that is not acknowledged. Raises MloraError when it is not here."""
        job = self._jobs.get(name)
        if job is None or job.assignment.epoch != epoch:
            raise MloraError(f"{name} of epoch {epoch} is not on {self._settings.id}")
        state = self._engine.state(name)
        steps = (*self._mail.unacknowledged(name, epoch), *job.steps)
        num_tokens = job.tokens_before + self._engine.progress(name).num_tokens
        moved = MovedState(name, state.step, state.to_arrays(), num_tokens, steps, self._clock.now_s())
        self._drop(job)
        return moved

    def _admit(self, assignment: Assignment, moved: MovedState | None = None) -> None:
        spec = assignment.spec
        before = self._jobs.get(spec.name)
        if before and before.assignment.epoch >= assignment.epoch:
            return
        if before:
            self._drop(before)
        try:
            loaded = loading.load(self._engine, assignment, moved)
            self._engine.admit(spec, loaded.rows, loaded.eval_rows, loaded.state)
        except Exception as error:  # noqa: BLE001 - the tenant's edge: whatever it is, it is this job's alone
            is_crowded = bool(self._jobs) and loading.is_out_of_memory(error)  # another time, or another host
            is_unread = is_crowded or isinstance(error, StorageError)
            self._mail.report(
                FailureReport(job=spec.name, epoch=assignment.epoch, step=0, error=str(error), is_unread=is_unread)
            )
            return
        step = loaded.state.step if loaded.state is not None else 0
        job = HostedJob(assignment, loaded.eval_rows, loaded.num_tokens, step, assignment.bundle_uri)
        if moved is not None:
            job.steps = list(moved.steps)
            job.saved_step = step - len(moved.steps)
            pause_s = max(0.0, self._clock.now_s() - moved.left_at_s)
            self._mail.announce(Arrival(spec.name, assignment.epoch, step, pause_s))
        self._jobs[spec.name] = job
        self._saves.add(job)
        log.info("admitted job=%s host=%s epoch=%d step=%d", spec.name, self._settings.id, assignment.epoch, step)

    # -- steps

    def _step(self) -> None:
        began_s = self._elapsed_s()
        outcomes = self._engine.step()
        self._progress.note_row(self._elapsed_s() - began_s)
        for outcome in outcomes:
            job = self._jobs.get(outcome.job)
            if job is None:
                continue
            if isinstance(outcome, StepReport):
                self._take_step(job, outcome)
            else:
                self._saves.fail(job, outcome.error)

    def _take_step(self, job: HostedJob, step: StepReport) -> None:
        self._progress.note_step(step)
        train, is_done = job.assignment.spec.train, self._engine.is_done(job.name)
        if job.eval_rows and not is_done and train.eval_steps and step.step % train.eval_steps == 0:
            try:
                loss = self._engine.evaluate([(self._engine.state(job.name), job.assignment.spec, job.eval_rows)])[0]
            except Exception as error:  # noqa: BLE001 - the tenant's edge
                self._saves.fail(job, f"evaluation: {type(error).__name__}: {error}")
                return
            step = dataclasses.replace(step, eval_loss=loss)
        job.steps.append(step)
        if is_done or (train.save_steps > 0 and step.step % train.save_steps == 0):
            self._saves.want(job)

    def _save(self) -> None:
        done = self._saves.advance()
        for report in done.reports:
            self._mail.report(report)
        for warning in done.warnings:
            self._progress.warn(warning)
        self._progress.note_failed_saves(done.num_failed)
        for job in done.ended:
            self._end(job)

    def _end(self, job: HostedJob) -> None:
        """Its newest step is saved, or it has failed."""
        step = self._engine.progress(job.name).step
        self._drop(job)
        if not job.failure:
            return
        kept = f"its last good bundle is step {job.saved_step}" if job.saved_uri else "it has no bundle"
        name, epoch = job.key
        error = f"{job.failure}; {kept}"
        self._mail.report(FailureReport(job=name, epoch=epoch, step=step, error=error, is_unsaved=job.is_unsaved))
        log.warning("failed job=%s host=%s step=%d error=%s", name, self._settings.id, step, job.failure)

    def _drop(self, job: HostedJob) -> None:
        del self._jobs[job.name]
        self._saves.remove(job)
        self._engine.evict(job.name)
        self._progress.is_out_of_date()
