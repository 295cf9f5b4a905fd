"""What a host does between two ticks: train what it was given, save, evaluate, report. Never imports ray.

One thread calls `advance` in a loop; `assign`, `release`, `acknowledge`, `report` and `call` may come from any
thread and never wait for a step. One adapter's failure, of training or of storage, is its own.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mlora_ray.errors import StorageError
from mlora_ray.held import STORAGE_FAILURE, Held, RateMeter
from mlora_ray.mailbox import Mailbox
from mlora_ray.outputs import EvalLosses, write_outputs
from mlora_ray.store.bundles import bundle_uri, read_bundle, write_bundle
from mlora_ray.store.row_store import first_rows, read_rows
from mlora_ray.types import (
    Ack,
    Assignment,
    BundleReport,
    CrossLosses,
    CrossRequest,
    FailureReport,
    HostReport,
    Progress,
    Release,
    StepReport,
)

if TYPE_CHECKING:
    from mlora_ray.engine.adapter import AdapterState
    from mlora_ray.engine.engine import Engine
    from mlora_ray.engine.rows import Rows

SAVE_ATTEMPTS = 5
FIRST_BACKOFF_S = 0.5  # doubled each time: a bundle is tried for 7.5 s
MAX_UNACKNOWLEDGED_S = 120.0  # placement silent for so long: stop running ahead of what is committed
SHOW_EVERY_S = 0.2

log = logging.getLogger(__name__)


class Hosting:
    """Jobs of one host over one engine."""

    def __init__(
        self,
        host: str,
        engine: Engine,
        bundle_root: str,
        elapsed_s: Callable[[], float] = time.monotonic,
        save_attempts: int = SAVE_ATTEMPTS,
    ) -> None:
        self.host, self._engine, self._bundle_root = host, engine, bundle_root
        self._base = engine.base.spec.id
        self._elapsed_s, self._save_attempts = elapsed_s, save_attempts
        self._mail = Mailbox()
        self._held: dict[str, Held] = {}
        self._base_losses: dict[str, float] = {}
        self._rate = RateMeter()
        self._step_s = 0.0
        self._warning = ""
        self._shown_at_s = -math.inf

    # -- callers, any thread

    def assign(self, assignments: tuple[Assignment, ...]) -> None:
        """Train these. The same job under the same epoch twice is one."""
        self._mail.post(assignments)

    def release(self, releases: tuple[Release, ...]) -> None:
        """Save these at their step boundary and let them go."""
        self._mail.post(releases)

    def acknowledge(self, acks: tuple[Ack, ...]) -> None:
        self._mail.acknowledge(acks)

    def report(self) -> HostReport:
        """Unacknowledged reports and everybody's progress."""
        return self._mail.answer(self.host, self._base)

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run `save_all` or `cross_evaluate` between two steps of the stepping thread."""
        return self._mail.call(function)

    # -- the stepping thread

    def advance(self) -> bool:
        """Take orders, run one engine step, do what saving is due. False: nothing to do, see `wait`."""
        self._take_orders()
        self._save_what_is_due()
        is_silent = self._mail.oldest_unacknowledged_s(self._elapsed_s()) > MAX_UNACKNOWLEDGED_S
        is_busy = self._engine.has_work and not is_silent
        if is_busy:
            began_s = self._elapsed_s()
            outcomes = self._engine.step()
            took_s = self._elapsed_s() - began_s
            self._step_s = took_s if not self._step_s else 0.9 * self._step_s + 0.1 * took_s
            for outcome in outcomes:
                self._account(outcome)
            self._save_what_is_due()
        self._show(is_due=bool(not is_busy))
        return is_busy

    def wait(self, timeout_s: float = 0.2) -> None:
        self._mail.wait(timeout_s)

    def save_all(self) -> None:
        """Save every adapter that is past its last bundle, each tried once. The jobs stay."""
        for held in list(self._held.values()):
            if self._engine.state(held.name).step > held.saved_step:
                try:
                    self._save(held, self._engine.state(held.name))
                except StorageError as error:
                    self._warn(f"{held.name}: {error}; its last good bundle is step {held.saved_step}")
        self._show(is_due=True)

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        """Every adapter on the first `max_rows` evaluation rows of every job. Raises StorageError."""
        columns = [first_rows(read_rows(r.spec.eval_rows), max_rows) for r in requests if r.spec.eval_rows]
        base_loss = self._engine.evaluate([(None, None, rows) for rows in columns])
        losses = []
        for request in requests:  # one adapter at a time: its state is all that is added to memory
            state = self._read_state(request.spec, request.bundle_uri)[0]
            losses.append(tuple(self._engine.evaluate([(state, request.spec, rows) for rows in columns])))
        return CrossLosses(tuple(losses), tuple(base_loss))

    # -- orders

    def _take_orders(self) -> None:
        for order in self._mail.take():
            if isinstance(order, Assignment):
                self._admit(order)
            elif isinstance(order, Release):
                held = self._held.get(order.job)
                if held and held.assignment.epoch == order.epoch:
                    held.is_leaving = held.is_save_due = True
            else:
                order()

    def _admit(self, assignment: Assignment) -> None:
        spec = assignment.spec
        before = self._held.get(spec.name)
        if before and before.assignment.epoch >= assignment.epoch:
            return
        if before:
            self._let_go(before)
        try:
            rows = read_rows(spec.train_rows)
            eval_rows = read_rows(spec.eval_rows) if spec.eval_rows else None
            state, meta = self._read_state(spec, assignment.bundle_uri) if assignment.bundle_uri else (None, {})
            self._engine.admit(spec, rows, eval_rows, state)
        except Exception as error:  # noqa: BLE001 - the tenant's edge: whatever it is, it is this job's alone
            self._mail.report(_failure(assignment, 0, error), self._elapsed_s())
            return
        step = state.step if state is not None else 0
        held = Held(assignment, eval_rows, int(meta.get("num_tokens", 0)), step, assignment.bundle_uri)
        held.is_save_due = self._engine.is_done(spec.name)
        self._held[spec.name] = held
        log.info("admitted job=%s host=%s epoch=%d step=%d", spec.name, self.host, assignment.epoch, step)

    def _read_state(self, spec: Any, uri: str) -> tuple[AdapterState, dict[str, Any]]:
        from mlora_ray.engine.adapter import AdapterState

        arrays, meta = read_bundle(uri)
        if meta.get("job") != spec.name:
            raise StorageError(f"{uri}: is a bundle of {meta.get('job')!r}, not of {spec.name!r}")
        return AdapterState.from_arrays(self._engine.layout(spec), arrays, str(self._engine.base.device)), meta

    # -- steps

    def _account(self, outcome: Any) -> None:
        held = self._held.get(outcome.job)
        if held is None:
            return
        if not isinstance(outcome, StepReport):
            self._fail(held, outcome.error)
            return
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

    def _fail(self, held: Held, error: str) -> None:
        """Stop one adapter; its last good state is kept as a bundle where storage allows."""
        state = self._engine.state(held.name)
        if state.step > held.saved_step:
            try:
                self._save(held, state)
            except StorageError as failed:
                self._warn(f"{held.name}: {failed}")
        kept = f"its last good bundle is step {held.saved_step}" if held.saved_uri else "it has no bundle"
        report = _failure(held.assignment, state.step, f"{error}; {kept}")
        self._let_go(held)
        self._mail.report(report, self._elapsed_s())
        log.warning("failed job=%s host=%s step=%d error=%s", held.name, self.host, state.step, error)

    # -- saving

    def _save_what_is_due(self) -> None:
        for held in [h for h in self._held.values() if h.is_save_due and h.retry_at_s <= self._elapsed_s()]:
            try:
                state = self._engine.state(held.name)
                if self._engine.is_done(held.name):
                    self._finish(held, state)
                    self._let_go(held)
                    continue
                if state.step > held.saved_step:
                    self._save(held, state)
                held.is_save_due, held.attempts = False, 0
                if held.is_leaving:
                    self._let_go(held)
            except StorageError as error:
                self._try_later(held, error)
            except Exception as error:  # noqa: BLE001 - the tenant's edge
                self._fail(held, f"{type(error).__name__}: {error}")

    def _try_later(self, held: Held, error: StorageError) -> None:
        held.attempts += 1
        if held.attempts >= self._save_attempts:
            self._warn(f"{held.name}: {error}")
            self._fail(held, f"{STORAGE_FAILURE}, {held.attempts} attempts: {error}")
            return
        wait_s = FIRST_BACKOFF_S * 2 ** (held.attempts - 1)
        held.retry_at_s = self._elapsed_s() + wait_s
        self._warn(f"{held.name}: {error}; next attempt in {wait_s:g} s")

    def _finish(self, held: Held, state: AdapterState) -> None:
        """Evaluate, write the outputs, then the final bundle: committed means everything is there."""
        spec = held.assignment.spec
        if held.eval_rows is not None and held.losses is None:
            held.losses = self._final_losses(held, state, held.eval_rows)
            if held.steps:
                held.steps[-1] = dataclasses.replace(held.steps[-1], eval_loss=held.losses.adapter)
        sha256 = write_outputs(held.assignment.out_uri, spec, self._engine.base, state, held.losses)
        self._save(held, state, weights_sha256=sha256)

    def _final_losses(self, held: Held, state: AdapterState, rows: Rows) -> EvalLosses:
        spec = held.assignment.spec
        key = spec.eval_rows.sha256 if spec.eval_rows else ""
        if key not in self._base_losses:
            self._base_losses[key] = self._engine.evaluate([(None, None, rows)])[0]
        return EvalLosses(self._base_losses[key], self._engine.evaluate([(state, spec, rows)])[0])

    def _save(self, held: Held, state: AdapterState, weights_sha256: str = "") -> None:
        """Write a bundle and report it with the steps it holds. Raises StorageError; then nothing changed."""
        assignment = held.assignment
        uri = bundle_uri(self._bundle_root, held.name, state.step, assignment.epoch)
        num_tokens = held.tokens_before + self._engine.progress(held.name).num_tokens
        meta = {"job": held.name, "step": state.step, "epoch": assignment.epoch, "num_tokens": num_tokens}
        report = BundleReport(
            job=held.name,
            epoch=assignment.epoch,
            step=state.step,
            bundle_uri=uri,
            sha256=write_bundle(uri, state.to_arrays(), meta),
            steps=tuple(held.steps),
            is_final=bool(weights_sha256),
            weights_sha256=weights_sha256,
        )
        held.saved_step, held.saved_uri, held.steps = state.step, uri, []
        self._mail.report(report, self._elapsed_s())

    def _let_go(self, held: Held) -> None:
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
            warning=self._warning,
        )

    def _progress(self, held: Held) -> Progress:
        progress = self._engine.progress(held.name, held.assignment.epoch)
        return dataclasses.replace(progress, num_tokens=progress.num_tokens + held.tokens_before)

    def _warn(self, warning: str) -> None:
        self._warning = warning
        log.warning("host=%s %s", self.host, warning)


def _failure(assignment: Assignment, step: int, error: Exception | str) -> FailureReport:
    return FailureReport(job=assignment.spec.name, epoch=assignment.epoch, step=step, error=str(error))
