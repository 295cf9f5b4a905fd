"""The engine: continuous batching of nano-batches of many adapters over one base, in one process.

Each call of `Engine.step` packs nano-batches of whichever adapters have work into one row, up to the token budget.
An adapter's optimizer steps exactly when its own batch is complete; nobody waits for a neighbour. Which neighbours
share a row changes nothing in an adapter's bits (docs/architecture.md, the exactness contract).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mlora_ray.engine.adapter import BUFFER_ROWS, AdapterLayout, AdapterState, build_layout
from mlora_ray.engine.base import Base
from mlora_ray.engine.executor import RowResult, run_row
from mlora_ray.engine.memory import Budget, detect_limit, plan_budget, process_bytes
from mlora_ray.engine.paging import Pager
from mlora_ray.engine.row import Request, padded_rows
from mlora_ray.engine.rows import Rows
from mlora_ray.engine.scratch import ScratchPool
from mlora_ray.engine.training import Training
from mlora_ray.errors import JobError
from mlora_ray.types import JobSpec, Progress, StepReport


class StepFailure(NamedTuple):
    """One adapter stopped. Its state is the last good one."""

    job: str
    step: int
    error: str


class Engine:
    """Trains every admitted job to its end. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        base: Base,
        *,
        memory_limit_bytes: int = 0,
        adapter_memory_bytes: int = 0,
        token_budget: int = 0,
        page_dir: str = "",
        page_steps: int = 64,
    ) -> None:
        """0 means: detect the limit, give adapters what it leaves, choose the row size.

        Adapters that do not fit `adapter_memory_bytes` wait on disk in `page_dir`; a resident one makes room for
        them after `page_steps` optimizer steps.
        """
        self.base = base
        limit = memory_limit_bytes or detect_limit(base.device.type)
        self.budget: Budget = plan_budget(base, limit, adapter_memory_bytes, token_budget)
        self._trainings: dict[str, Training] = {}
        self._pager = Pager(self.budget.adapter_bytes, page_dir, page_steps, str(base.device))
        self._scratch = ScratchPool(self.budget.scratch_bytes, base.dtype)
        self._layouts: dict[object, AdapterLayout] = {}

    # -- who trains ----------------------------------------------------------------------------------------------

    def admit(
        self, spec: JobSpec, rows: Rows, eval_rows: Rows | None = None, state: AdapterState | None = None
    ) -> None:
        """Start or go on training `spec`. Raises JobError if the adapter cannot be trained on this base."""
        if spec.name in self._trainings:
            raise JobError(f"job {spec.name!r} is already here")
        layout = self.layout(spec)
        training = Training(spec, rows, layout)
        if training.state_bytes > self._pager.capacity_bytes:
            raise JobError(f"adapter of job {spec.name!r} alone is larger than the adapter memory")
        if self.base.position_limit and rows.num_rows and int(rows.lengths.max()) > self.base.position_limit:
            raise JobError(f"job {spec.name!r} has rows longer than the base's {self.base.position_limit} positions")
        _check_tokens(spec, rows, self.base.head_VD.shape[0])
        training.served_tokens = min((t.served_tokens for t in self._trainings.values() if not t.is_done), default=0)
        if state is not None and len(state.flat) != BUFFER_ROWS[spec.train.optim]:
            raise JobError(
                f"saved state of job {spec.name!r} has {len(state.flat)} buffers, "
                f"{spec.train.optim} needs {BUFFER_ROWS[spec.train.optim]}"
            )
        training.step = state.step if state is not None else 0
        self._pager.admit(training, state)
        self._trainings[spec.name] = training

    def evict(self, name: str) -> AdapterState | None:
        """Stop training a job. Returns its state at the last step boundary, None if it never started."""
        training = self._trainings.pop(name)
        self._close(training)
        return self._pager.forget(training)

    def layout(self, spec: JobSpec) -> AdapterLayout:
        """The adapter's layout on this base. Raises JobError."""
        if spec.lora not in self._layouts:
            self._layouts[spec.lora] = build_layout(spec.lora, self.base.groups)
        return self._layouts[spec.lora]

    @property
    def jobs(self) -> tuple[str, ...]:
        """Jobs neither finished nor failed."""
        return tuple(name for name, t in self._trainings.items() if not t.is_over)

    @property
    def has_work(self) -> bool:
        return any(not t.is_over for t in self._trainings.values())

    def is_done(self, name: str) -> bool:
        return self._trainings[name].is_done

    def state(self, name: str) -> AdapterState:
        """State at the last optimizer-step boundary; a partial gradient is no part of it."""
        training = self._trainings[name]
        return self._pager.fetch(training) or training.fresh_state("cpu")

    def progress(self, name: str, epoch: int = 0) -> Progress:
        t = self._trainings[name]
        return Progress(
            job=name,
            epoch=epoch,
            step=t.step,
            total_steps=t.spec.total_steps,
            loss=t.last_loss,
            num_tokens=t.trained_tokens,
            is_resident=t.state is not None,
            tokens_per_s=t.tokens_per_s,
        )

    @property
    def num_page_outs(self) -> int:
        """Times an adapter's state went to disk to make room."""
        return self._pager.num_page_outs

    def close(self) -> None:
        """Give back the page directory."""
        self._pager.close()

    def memory_bytes(self) -> int:
        return process_bytes(self.base.device.type)

    # -- training ------------------------------------------------------------------------------------------------

    def step(self) -> list[StepReport | StepFailure]:
        """Run one packed row; report every optimizer step that it completed and every adapter that it stopped."""
        resident = self._pager.make_resident([t for t in self._trainings.values() if not t.is_over])
        out: list[StepReport | StepFailure] = [
            StepFailure(t.spec.name, t.step, t.error) for t in self._pager.take_unreadable()
        ]
        picked = self._pick(resident)
        if not picked:
            return out
        try:
            results = run_row(self.base, [request for _, request in picked], has_backward=True)
        except Exception as error:  # noqa: BLE001 - the tenant's edge: find whose failure it is
            return out + self._isolate(picked, error)
        for (training, _), result in zip(picked, results, strict=True):
            if not training.is_over:
                out += self._account(training, result)
        return out

    def _pick(self, resident: list[Training]) -> list[tuple[Training, Request]]:
        """Nano-batches for one row: open steps first (each holds scratch memory), then whoever was served least."""
        room = self.budget.token_budget
        picked: list[tuple[Training, Request]] = []
        for training in sorted(resident, key=lambda t: (t.scratch is None, t.served_tokens, t.spec.name)):
            if room <= 0:
                break
            if training.scratch is None and not self._scratch.has_room(training.layout):
                continue
            for nano in training.waiting():
                if picked and padded_rows(nano.num_tokens) > room:
                    break
                if training.scratch is None:
                    assert training.state is not None
                    training.open(self._scratch.take(training.layout, training.state.weights))
                picked.append((training, training.request(nano)))
                training.served_tokens += nano.num_tokens
                room -= padded_rows(nano.num_tokens)
        return picked

    def _account(self, training: Training, result: RowResult) -> list[StepReport | StepFailure]:
        """Add a nano-batch's loss; finish the optimizer step when it was the last."""
        if not math.isfinite(result.loss_sum):
            return [self._fail(training, f"loss is {result.loss_sum} at step {training.step + 1}")]
        training.loss_sum += result.loss_sum
        training.done_nano += 1
        if training.done_nano < training.num_nano:
            return []
        report = training.finish_step()
        if report is None:
            return [self._fail(training, f"gradient norm is not finite at step {training.step + 1}")]
        self._close(training)
        return [report]

    def _isolate(self, picked: list[tuple[Training, Request]], error: Exception) -> list[StepReport | StepFailure]:
        """A row raised: every adapter in it replays its step, each alone first, to find whose failure it was."""
        trainings = list(dict.fromkeys(training for training, _ in picked))
        for training in trainings:
            self._close(training)
        if len(trainings) == 1:
            return [self._fail(trainings[0], f"{type(error).__name__}: {error}")]
        out: list[StepReport | StepFailure] = []
        for training in trainings:
            while not training.is_over and (alone := self._pick([training])):
                try:
                    results = run_row(self.base, [request for _, request in alone], has_backward=True)
                except Exception as own:  # noqa: BLE001 - the tenant's edge
                    out.append(self._fail(training, f"{type(own).__name__}: {own}"))
                    break
                done = [r for result in results for r in self._account(training, result)]
                out += done
                if done:
                    break
        return out

    def _fail(self, training: Training, error: str) -> StepFailure:
        self._close(training)
        training.error = error
        return StepFailure(training.spec.name, training.step, error)

    def _close(self, training: Training) -> None:
        """Forget the open step; its nano-batches are replayed if it was not finished."""
        if training.scratch is not None:
            self._scratch.give_back(training.scratch)
        training.close()

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(self, requests: list[tuple[AdapterState | None, JobSpec | None, Rows]]) -> list[float]:
        """Mean loss per target token of each (adapter or None for the bare base, its spec, rows), packed together."""
        from mlora_ray.engine.evaluation import evaluate

        return evaluate(self.base, requests, self.budget.token_budget)


def _check_tokens(spec: JobSpec, rows: Rows, vocab: int) -> None:
    """A token outside the vocabulary would end a GPU process for every job on it, so it is refused before it runs."""
    outside = rows.tokens[(rows.tokens < 0) | (rows.tokens >= vocab)]
    if len(outside):
        raise JobError(f"rows of job {spec.name!r} hold token id {outside[0]}; the base has 0 to {vocab - 1}")
