"""One job inside the engine: its cursor, its open optimizer step and its figures."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from mlora_ray.data.batch_sampler import StepRows, rows_of_step
from mlora_ray.data.tokenized_rows import Rows
from mlora_ray.engine.adapter_layout import AdapterLayout
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.optimizer import clip_, optimizer_step_
from mlora_ray.engine.packed_row import Request, Scratch
from mlora_ray.engine.schedule import learning_rate
from mlora_ray.types import BUFFER_ROWS, JobSpec, Progress, StepReport


class NanoBatch(NamedTuple):
    number: int
    picked: tuple[int, ...]
    num_tokens: int


class EngineJob:
    """Between two optimizer steps only `state` counts; everything of an open step can be thrown away and replayed."""

    def __init__(self, spec: JobSpec, rows: Rows, layout: AdapterLayout) -> None:
        self.spec, self.rows, self.layout = spec, rows, layout
        self.state: AdapterState | None = None  # None: not resident
        self.step = 0  # optimizer steps taken
        self.error = ""
        self.is_held = False
        self.head_start = 0  # steps that whoever was here first had taken, less those it had taken elsewhere
        self.trained_tokens = 0
        self.last_loss = math.nan
        self.tokens_per_s = 0.0
        self.turn = 0  # place in the line for residency
        self.steps_since_paged_in = 0
        self.state_bytes = BUFFER_ROWS[spec.train.optim] * layout.size * 4
        self._lengths = rows.lengths
        self._num_targets = rows.num_targets()
        self.close()

    @property
    def is_done(self) -> bool:
        return self.step >= self.spec.total_steps

    @property
    def is_over(self) -> bool:
        return self.is_done or bool(self.error)

    @property
    def has_work(self) -> bool:
        return not self.is_over and not self.is_held

    @property
    def num_served(self) -> int:
        """The scheduler's measure of fairness: a group's members take their steps together, as policies think of it."""
        return self.head_start + self.step

    def fresh_state(self, device: str) -> AdapterState:
        return AdapterState.fresh(self.layout, self.spec.lora, self.spec.train, device)

    def progress(self, epoch: int) -> Progress:
        """Where it stands, for the owner of this epoch."""
        return Progress(
            job=self.spec.name,
            epoch=epoch,
            step=self.step,
            total_steps=self.spec.total_steps,
            loss=self.last_loss,
            num_tokens=self.trained_tokens,
            is_resident=self.state is not None,
            tokens_per_s=self.tokens_per_s,
        )

    # -- an open step --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """No step is open; the next nano-batch is the current step's first."""
        self.scratch: Scratch | None = None
        self.done_nano = self.sent_nano = 0
        self.loss_sum = 0.0
        self._plan: StepRows | None = None

    def waiting(self) -> list[NanoBatch]:
        """Nano-batches of the current step that were not sent yet."""
        plan = self._planned()
        return [
            NanoBatch(i, picked, int(self._lengths[list(picked)].sum()))
            for i, picked in enumerate(plan.nano_batches)
            if i >= self.sent_nano
        ]

    @property
    def next_tokens(self) -> int:
        """Of the next nano-batch of the current step; 0 when all were sent."""
        plan = self._planned().nano_batches
        return int(self._lengths[list(plan[self.sent_nano])].sum()) if self.sent_nano < len(plan) else 0

    @property
    def num_nano(self) -> int:
        return len(self._planned().nano_batches)

    def open(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self._started_s = time.perf_counter()
        flat = [row for nano in self._planned().nano_batches for row in nano]
        self._step_tokens = int(self._lengths[flat].sum())
        self._step_targets = int(self._num_targets[flat].sum())

    def request(self, nano: NanoBatch) -> Request:
        """The next nano-batch as engine work; its loss is weighted by the whole step's number of targets."""
        assert nano.number == self.sent_nano
        self.sent_nano += 1
        return Request(
            self.scratch,
            self.rows,
            nano.picked,
            1.0 / max(1, self._step_targets),
            nano.number == 0,
            self.spec.lora.lora_dropout,
            (self.spec.train.seed, self.step, nano.number),
        )

    def finish_step(self) -> StepReport | None:
        """Clip and take the optimizer step. None, and nothing changed, when the gradient is not finite."""
        assert self.scratch is not None
        assert self.scratch.grad_P is not None
        assert self.state is not None
        train = self.spec.train
        norm = clip_(self.scratch.grad_P, train.max_grad_norm)
        if not math.isfinite(norm):
            return None
        rate = learning_rate(train, self.step, self.spec.total_steps)
        optimizer_step_(self.state, self.scratch.grad_P, train, rate)
        self.step = self.state.step
        self.steps_since_paged_in += 1
        seconds = time.perf_counter() - self._started_s
        self.trained_tokens += self._step_tokens
        self.tokens_per_s = self._step_tokens / max(seconds, 1e-9)
        self.last_loss = self.loss_sum / max(1, self._step_targets)
        return StepReport(
            job=self.spec.name,
            step=self.step,
            data_epoch=self._planned().data_epoch,
            loss=self.last_loss,
            learning_rate=rate,
            grad_norm=norm,
            num_tokens=self._step_tokens,
            num_target_tokens=self._step_targets,
            seconds=seconds,
        )

    def _planned(self) -> StepRows:
        if self._plan is None:
            self._plan = rows_of_step(self.spec.train, self._lengths, self.step, self.spec.nano_batch_tokens)
        return self._plan
