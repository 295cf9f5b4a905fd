"""The engine: continuous batching of nano-batches of many adapters over one base, in one process.

Each call of `Engine.step` packs nano-batches of whichever adapters have work into one row, up to the token budget.
An adapter's optimizer steps exactly when its own batch is complete; nobody waits for a neighbour. Which neighbours
share a row changes nothing in an adapter's bits (docs/architecture.md, the exactness contract).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mlora_ray.data.tokenized_rows import Rows
from mlora_ray.engine.adapter_layout import AdapterLayout, build_layout
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.admission import check_job, check_memory
from mlora_ray.engine.base import Base
from mlora_ray.engine.engine_job import EngineJob
from mlora_ray.engine.evaluation import evaluate
from mlora_ray.engine.executor import Raised, RowResult, try_row
from mlora_ray.engine.gradient_buffers import ScratchPool, open_step_bytes
from mlora_ray.engine.memory_budget import (
    MemoryBudget,
    detect_limit,
    free_unused,
    is_out_of_memory,
    plan_budget,
    process_bytes,
    too_large,
)
from mlora_ray.engine.packed_row import Request, padded_rows
from mlora_ray.engine.packed_row_stats import RowFacts, row_facts
from mlora_ray.engine.paging import Pager
from mlora_ray.errors import JobError
from mlora_ray.types import JobSpec, MemoryModel, Progress, StepReport

MIN_TOKENS = 16  # of a row, below which nothing is to be gained
FEWER_OPEN = "out of memory: fewer optimizer steps are open at a time"


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
        memory: MemoryModel | None = None,
    ) -> None:
        """0 means: detect the limit, give adapters what it leaves, choose the row size; no `memory`: bounds hold.

        Adapters that do not fit `adapter_memory_bytes` wait on disk in `page_dir`; a resident one makes room for
        them after `page_steps` optimizer steps.
        """
        self.base = base
        limit = memory_limit_bytes or detect_limit(base.device.type)
        self.budget: MemoryBudget = plan_budget(base, limit, adapter_memory_bytes, token_budget, memory)
        self._memory = memory
        self.row_tokens = self.budget.token_budget  # tokens of a packed row at most, within what memory allows
        self.last_row: RowFacts | None = None  # of the last `step`; None where no row ran through
        self.warning = ""  # what its user should know: memory was short
        self._trainings: dict[str, EngineJob] = {}
        self._failed: list[StepReport | StepFailure] = []
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
        training = EngineJob(spec, rows, layout)
        if training.state_bytes > self._pager.capacity_bytes:
            raise JobError(f"adapter of job {spec.name!r} alone is larger than the adapter memory")
        check_job(self.base, spec, rows, state)
        if self._memory is not None:
            own_bytes = training.state_bytes + open_step_bytes(layout, self.base.dtype)
            check_memory(self.base, spec, rows, own_bytes, self._memory, self.budget)
        training.step = state.step if state is not None else 0
        least = min((t.num_served for t in self._trainings.values() if not t.is_over), default=0)
        training.head_start = least - training.step
        self._pager.admit(training, state)
        self._trainings[spec.name] = training

    def evict(self, name: str) -> AdapterState | None:
        """Stop training a job. Returns its state at the last step boundary, None if it never started."""
        training = self._trainings.pop(name)
        self._close(training)
        return self._pager.forget(training)

    def hold(self, name: str) -> None:
        """Let a job wait where it is, at its last step boundary. It takes no part in rows."""
        training = self._trainings[name]
        self._close(training)
        training.is_held = True

    def unhold(self, name: str) -> None:
        self._trainings[name].is_held = False

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
        return any(t.has_work for t in self._trainings.values())

    def is_done(self, name: str) -> bool:
        return self._trainings[name].is_done

    def state(self, name: str) -> AdapterState:
        """State at the last optimizer-step boundary; a partial gradient is no part of it."""
        training = self._trainings[name]
        return self._pager.fetch(training) or training.fresh_state("cpu")

    def progress(self, name: str, epoch: int = 0) -> Progress:
        return self._trainings[name].progress(epoch)

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
        resident = self._pager.make_resident([t for t in self._trainings.values() if t.has_work])
        out: list[StepReport | StepFailure] = [
            StepFailure(t.spec.name, t.step, t.error) for t in self._pager.take_unreadable()
        ]
        room = min(self.row_tokens, self.budget.token_budget)
        picked = self._pick(resident, room)
        out += self._take_failed()
        self.last_row = None
        if not picked:
            return out
        results = try_row(self.base, [request for _, request in picked])
        if isinstance(results, Raised):
            return out + (self._shrink(picked) if results.is_memory else self._isolate(picked))
        self.last_row = row_facts(picked, resident, room)
        for (training, _), result in zip(picked, results, strict=True):
            if not training.is_over:
                out += self._account(training, result)
        return out

    def _pick(self, resident: list[EngineJob], room: int) -> list[tuple[EngineJob, Request]]:
        """`room` tokens of nano-batches, or one: open steps first (each holds scratch), then who took fewest steps."""
        picked: list[tuple[EngineJob, Request]] = []
        for training in sorted(resident, key=lambda t: (t.scratch is None, t.num_served, t.spec.name)):
            if room <= 0:
                break
            if training.scratch is None and not self._scratch.has_room(training.layout):
                continue
            for nano in training.waiting():
                if picked and padded_rows(nano.num_tokens) > room:
                    break
                if training.scratch is None and not self._open(training):
                    return picked
                picked.append((training, training.request(nano)))
                room -= padded_rows(nano.num_tokens)
                if room <= 0:
                    break
        return picked

    def _open(self, training: EngineJob) -> bool:
        """False where memory does not hold one more open step; the adapter fails if it does not hold its alone."""
        assert training.state is not None
        try:
            training.open(self._scratch.take(training.layout, training.state.weights))
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            is_alone, why = not self._scratch.is_in_use, f"{type(error).__name__}: {error}"
        self._scratch.shrink()
        self.warning = FEWER_OPEN
        free_unused(self.base.device.type)
        if is_alone:
            self._failed.append(self._fail(training, f"quarantined: its gradients do not fit into memory alone: {why}"))
        return False

    def _account(self, training: EngineJob, result: RowResult) -> list[StepReport | StepFailure]:
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

    def _isolate(self, picked: list[tuple[EngineJob, Request]]) -> list[StepReport | StepFailure]:
        """A row raised: every adapter in it replays its step alone, to find whose failure it was."""
        trainings = list(dict.fromkeys(training for training, _ in picked))
        for training in trainings:
            self._close(training)
        return [outcome for training in trainings for outcome in self._replay_alone(training)]

    def _shrink(self, picked: list[tuple[EngineJob, Request]]) -> list[StepReport | StepFailure]:
        """A row did not fit: its adapters replay their steps in smaller ones; one nano-batch, with no step open."""
        if len(picked) > 1:
            for training, _ in picked:
                self._close(training)
            self._halve_budget(sum(padded_rows(request.num_tokens) for _, request in picked))
            return []
        for training in self._trainings.values():
            self._close(training)
        self._scratch.shrink()
        self.warning = FEWER_OPEN
        return self._replay_alone(picked[0][0])

    def _halve_budget(self, row_tokens: int) -> None:
        """Until a row of so many tokens no longer fits."""
        tokens = self.budget.token_budget
        while tokens >= row_tokens:
            tokens //= 2
        self.budget = self.budget._replace(token_budget=tokens)
        self.warning = f"out of memory at a row of {row_tokens:,} tokens: rows hold at most {tokens:,} now"
        free_unused(self.base.device.type)

    def _replay_alone(self, training: EngineJob) -> list[StepReport | StepFailure]:
        """A step of one adapter, a nano-batch a row. What raises here is its own."""
        free_unused(self.base.device.type)
        while picked := self._pick([training], 1):
            results = try_row(self.base, [request for _, request in picked])
            if isinstance(results, Raised):
                too_much = too_large(self.base, picked[0][1].num_tokens, self.memory_bytes(), self.budget)
                return [self._fail(training, (f"{too_much}: " if results.is_memory else "") + results.error)]
            if done := self._account(training, results[0]):
                return done
        return self._take_failed()

    def _take_failed(self) -> list[StepReport | StepFailure]:
        """Adapters that could not open a step, since the last call."""
        taken, self._failed = self._failed, []
        return taken

    def _fail(self, training: EngineJob, error: str) -> StepFailure:
        self._close(training)
        training.error = error
        return StepFailure(training.spec.name, training.step, error)

    def _close(self, training: EngineJob) -> None:
        """Forget the open step; its nano-batches are replayed if it was not finished."""
        if training.scratch is not None:
            self._scratch.give_back(training.scratch)
        training.close()

    def evaluate(self, requests: list[tuple[AdapterState | None, JobSpec | None, Rows]]) -> list[float]:
        """Mean loss per target token of each (adapter or None for the bare base, its spec, rows), packed together."""
        while True:
            try:
                return evaluate(self.base, requests, self.budget.token_budget)
            except Exception as error:
                if not is_out_of_memory(error) or self.budget.token_budget < MIN_TOKENS:
                    raise
            self._halve_budget(self.budget.token_budget)
