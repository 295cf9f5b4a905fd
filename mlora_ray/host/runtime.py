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
from typing import TYPE_CHECKING, Any, TypeVar

from mlora_ray.clock import Clock, SystemClock
from mlora_ray.errors import MloraError, StorageError
from mlora_ray.host import loading
from mlora_ray.host.cross_evaluation import cross_evaluate
from mlora_ray.host.hosted_job import HostedJob
from mlora_ray.host.mailbox import Mailbox
from mlora_ray.host.row_size_tuner import RowSizeTuner
from mlora_ray.host.snapshot_writer import SnapshotWriter
from mlora_ray.host.throughput import RateMeter
from mlora_ray.types import (
    STORAGE_FAILURE,
    Ack,
    Arrival,
    Assignment,
    CrossLosses,
    CrossRequest,
    FailureReport,
    HostReport,
    HostSettings,
    MovedState,
    Progress,
    Release,
    StepReport,
)
from mlora_ray.types.backoff import backoff_s

if TYPE_CHECKING:
    from mlora_ray.engine.engine import Engine

FIRST_BACKOFF_S = 0.5  # doubled each time: five attempts take 7.5 s
MAX_BACKOFF_S = 30.0
NUM_WRITERS = 4  # an object store answers slowly, not one at a time
SHOW_EVERY_S = 0.2

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
        self._num_steps = self._num_failed_saves = 0
        self._mail = Mailbox()
        self._held: dict[str, HostedJob] = {}
        self._writer = writer or ThreadPoolExecutor(NUM_WRITERS, thread_name_prefix="saving")
        self._saver = SnapshotWriter(engine, settings.bundle_root, self._writer)
        self._rate = RateMeter()
        self._rows = RowSizeTuner(settings.id, engine, is_set=settings.token_budget > 0)
        self._step_s = 0.0
        self._warning = ""
        self._shown_at_s = -math.inf
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
        for name in self._mail.fenced_jobs((h.name, h.assignment.epoch) for h in self._held.values()):
            self._drop(self._held[name])
        self._take_orders()
        self._save_what_is_due()
        self._hold_who_is_ahead()
        is_busy = self._engine.has_work
        if is_busy:
            began_s = self._elapsed_s()
            outcomes = self._engine.step()
            took_s = self._elapsed_s() - began_s
            self._step_s = took_s if not self._step_s else 0.9 * self._step_s + 0.1 * took_s
            self._rows.take(took_s)
            for outcome in outcomes:
                self._account(outcome)
            self._save_what_is_due()
        self._show(is_due=bool(not is_busy))
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
                held = self._held.get(order.job)
                if held and held.assignment.epoch == order.epoch and not held.is_leaving:
                    self._engine.hold(order.job)
                    held.is_leaving = held.is_save_due = True
            else:
                order()

    def release_state(self, job: str, epoch: int) -> MovedState:
        """Let an adapter go, with every step that is not acknowledged. Raises MloraError when it is not here."""
        held = self._held.get(job)
        if held is None or held.assignment.epoch != epoch:
            raise MloraError(f"{job} of epoch {epoch} is not on {self._settings.id}")
        state = self._engine.state(job)
        steps = (*self._mail.unacknowledged(job, epoch), *held.steps)
        moved = MovedState(job, state.step, state.to_arrays(), self._num_tokens(held), steps, self._clock.now_s())
        self._drop(held)
        return moved

    def _admit(self, assignment: Assignment, moved: MovedState | None = None) -> None:
        spec = assignment.spec
        before = self._held.get(spec.name)
        if before and before.assignment.epoch >= assignment.epoch:
            return
        if before:
            self._drop(before)
        try:
            loaded = loading.load(self._engine, assignment, moved)
            self._engine.admit(spec, loaded.rows, loaded.eval_rows, loaded.state)
        except Exception as error:  # noqa: BLE001 - the tenant's edge: whatever it is, it is this job's alone
            is_crowded = bool(self._held) and loading.is_out_of_memory(error)  # another time, or another host
            self._mail.report(_failure(assignment, 0, error, is_unread=is_crowded))
            return
        step = loaded.state.step if loaded.state is not None else 0
        held = HostedJob(assignment, loaded.eval_rows, loaded.num_tokens, step, assignment.bundle_uri)
        if moved is not None:
            held.steps = list(moved.steps)
            held.saved_step = step - len(moved.steps)
            pause_s = max(0.0, self._clock.now_s() - moved.left_at_s)
            self._mail.announce(Arrival(spec.name, assignment.epoch, step, pause_s))
        held.is_save_due = self._engine.is_done(spec.name)
        self._held[spec.name] = held
        log.info("admitted job=%s host=%s epoch=%d step=%d", spec.name, self._settings.id, assignment.epoch, step)

    # -- steps

    def _account(self, outcome: Any) -> None:
        held = self._held.get(outcome.job)
        if held is None:
            return
        if not isinstance(outcome, StepReport):
            self._fail(held, outcome.error)
            return
        self._num_steps += 1
        self._rate.add(self._elapsed_s(), outcome.num_tokens)
        train = held.assignment.spec.train
        is_done = self._engine.is_done(held.name)
        if held.eval_rows and not is_done and train.eval_steps and outcome.step % train.eval_steps == 0:
            try:
                loss = self._engine.evaluate([(self._engine.state(held.name), held.assignment.spec, held.eval_rows)])[0]
            except Exception as error:  # noqa: BLE001 - the tenant's edge
                self._fail(held, f"evaluation: {type(error).__name__}: {error}")
                return
            outcome = dataclasses.replace(outcome, eval_loss=loss)
        held.steps.append(outcome)
        is_saving = train.save_steps > 0 and outcome.step % train.save_steps == 0
        held.is_save_due = held.is_save_due or is_done or is_saving

    def _fail(self, held: HostedJob, error: str) -> None:
        """Stop one adapter; its last good state is kept as a bundle where storage allows."""
        self._engine.hold(held.name)
        held.failure, held.is_save_due, held.retry_at_s = held.failure or error, True, 0.0

    def _end_failed(self, held: HostedJob) -> None:
        kept = f"its last good bundle is step {held.saved_step}" if held.saved_uri else "it has no bundle"
        step = self._engine.progress(held.name).step
        self._drop(held)
        self._mail.report(_failure(held.assignment, step, f"{held.failure}; {kept}"))
        log.warning("failed job=%s host=%s step=%d error=%s", held.name, self._settings.id, step, held.failure)

    # -- saving

    def _save_what_is_due(self) -> None:
        """Begin the saves that are due, as many at a time as there are writers, and take in those that are done."""
        room = NUM_WRITERS - sum(h.saving is not None for h in self._held.values())
        for held in list(self._held.values()):
            try:
                is_due = held.is_save_due and held.saving is None and held.retry_at_s <= self._elapsed_s()
                if is_due and room > 0:
                    room -= 1
                    self._begin_save(held)
                if held.saving is not None and held.saving.done():
                    self._take_save(held)
            except StorageError as error:
                self._try_later(held, error)
            except Exception as error:  # noqa: BLE001 - the tenant's edge
                self._give_up(held, f"{type(error).__name__}: {error}")

    def _begin_save(self, held: HostedJob) -> None:
        held.is_save_due = False
        if self._is_behind(held) or (self._engine.is_done(held.name) and not held.failure):
            saving = self._saver.begin(held, self._num_tokens(held))
            saving.add_done_callback(lambda _: self._mail.wake())
        else:
            self._go_on(held)

    def _take_save(self, held: HostedJob) -> None:
        self._mail.report(self._saver.take(held))
        held.attempts = 0
        is_ending = held.is_leaving or bool(held.failure) or self._engine.is_done(held.name)
        if is_ending and self._is_behind(held):
            held.is_save_due = True
        else:
            self._go_on(held)

    def _is_behind(self, held: HostedJob) -> bool:
        return self._engine.progress(held.name).step > held.saved_step

    def _go_on(self, held: HostedJob) -> None:
        """Its newest step is saved, or nobody wants it to leave."""
        if held.failure:
            self._end_failed(held)
        elif held.is_leaving or self._engine.is_done(held.name):
            self._drop(held)

    def _give_up(self, held: HostedJob, error: str) -> None:
        """Its state cannot be saved."""
        held.failure = held.failure or error
        self._end_failed(held)

    def _try_later(self, held: HostedJob, error: StorageError) -> None:
        held.attempts, held.is_save_due = held.attempts + 1, True
        self._num_failed_saves += 1
        if held.failure:
            self._warn(f"{held.name}: {error}")
            self._end_failed(held)
            return
        if held.attempts >= self._settings.save_attempts > 0:
            self._warn(f"{held.name}: {error}")
            self._fail(held, f"{STORAGE_FAILURE}, {held.attempts} attempts: {error}")
            return
        wait_s = backoff_s(held.attempts, FIRST_BACKOFF_S, MAX_BACKOFF_S)
        held.retry_at_s = self._elapsed_s() + wait_s
        self._warn(f"{held.name}: {error}; next attempt in {wait_s:g} s")

    def _hold_who_is_ahead(self) -> None:
        """An adapter does not run ahead of what is committed by more than so many steps: storage may be away."""
        counts = self._mail.num_unacknowledged()
        for held in self._held.values():
            num_ahead = len(held.steps) + counts.get((held.name, held.assignment.epoch), 0)
            is_ahead = num_ahead >= self._settings.max_uncommitted_steps
            if is_ahead != held.is_held and not (held.failure or held.is_leaving):
                held.is_held = is_ahead
                (self._engine.hold if is_ahead else self._engine.unhold)(held.name)
                held.is_save_due = held.is_save_due or is_ahead

    def _num_tokens(self, held: HostedJob) -> int:
        """All that the adapter was trained on, here and before."""
        return held.tokens_before + self._engine.progress(held.name).num_tokens

    def _drop(self, held: HostedJob) -> None:
        del self._held[held.name]
        self._engine.evict(held.name)
        self._shown_at_s = -math.inf

    # -- what the next answer says

    def _show(self, is_due: bool) -> None:
        now_s = self._elapsed_s()
        if not is_due and now_s - self._shown_at_s < SHOW_EVERY_S:
            return
        self._shown_at_s = now_s
        self._mail.show(
            [self._progress(h) for h in self._held.values()],
            tokens_per_s=self._rate.per_s(now_s),
            step_s=self._step_s,
            memory_bytes=self._engine.memory_bytes(),
            memory_limit_bytes=self._engine.budget.limit_bytes,
            token_budget=self._engine.budget.token_budget,
            warning=self._warning or self._engine.warning,
            num_steps=self._num_steps,
            num_failed_saves=self._num_failed_saves,
            **self._rows.facts(),
        )

    def _progress(self, held: HostedJob) -> Progress:
        progress = self._engine.progress(held.name, held.assignment.epoch)
        return dataclasses.replace(progress, num_tokens=progress.num_tokens + held.tokens_before)

    def _warn(self, warning: str) -> None:
        self._warning = warning
        log.warning("host=%s %s", self._settings.id, warning)


def _failure(assignment: Assignment, step: int, error: Exception | str, is_unread: bool = False) -> FailureReport:
    is_unread = is_unread or isinstance(error, StorageError)
    return FailureReport(
        job=assignment.spec.name, epoch=assignment.epoch, step=step, error=str(error), is_unread=is_unread
    )
