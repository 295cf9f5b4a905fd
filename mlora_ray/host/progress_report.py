"""What a host's next answer says: where each adapter stands, how fast the host is, what its user should know."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mlora_ray.host.hosted_job import HostedJob
from mlora_ray.host.mailbox import Mailbox
from mlora_ray.host.row_size_tuner import RowSizeTuner
from mlora_ray.host.throughput import RateMeter
from mlora_ray.types import HostSettings, Progress, StepReport

if TYPE_CHECKING:
    from mlora_ray.engine.engine import Engine

SHOW_EVERY_S = 0.2

log = logging.getLogger(__name__)


class ProgressReport:
    """Counts rows and steps, and puts the figures into the mailbox now and then."""

    def __init__(self, settings: HostSettings, engine: Engine, mail: Mailbox, elapsed_s: Callable[[], float]) -> None:
        self._host, self._engine, self._mail, self._elapsed_s = settings.id, engine, mail, elapsed_s
        self._rate = RateMeter()
        self._row_sizes = RowSizeTuner(settings.id, engine, is_set=settings.token_budget > 0)
        self._step_s = 0.0  # of an engine step, smoothed
        self._num_steps = self._num_failed_saves = 0
        self._warning = ""
        self._shown_at_s = -math.inf

    def note_row(self, took_s: float) -> None:
        """The engine has run a row in so many seconds; this says how large the next one may be."""
        self._step_s = took_s if not self._step_s else 0.9 * self._step_s + 0.1 * took_s
        self._row_sizes.take(took_s)

    def note_step(self, step: StepReport) -> None:
        self._num_steps += 1
        self._rate.add(self._elapsed_s(), step.num_tokens)

    def note_failed_saves(self, number: int) -> None:
        self._num_failed_saves += number

    def warn(self, warning: str) -> None:
        self._warning = warning
        log.warning("host=%s %s", self._host, warning)

    def is_out_of_date(self) -> None:
        """A job has gone: show that at the next chance."""
        self._shown_at_s = -math.inf

    def show(self, jobs: Iterable[HostedJob], is_due: bool) -> None:
        """At most every `SHOW_EVERY_S`, or where it is due."""
        now_s = self._elapsed_s()
        if not is_due and now_s - self._shown_at_s < SHOW_EVERY_S:
            return
        self._shown_at_s = now_s
        self._mail.show(
            [self._progress(job) for job in jobs],
            tokens_per_s=self._rate.per_s(now_s),
            step_s=self._step_s,
            memory_bytes=self._engine.memory_bytes(),
            memory_limit_bytes=self._engine.budget.limit_bytes,
            token_budget=self._engine.budget.token_budget,
            warning=self._warning or self._engine.warning,
            num_steps=self._num_steps,
            num_failed_saves=self._num_failed_saves,
            **self._row_sizes.facts(),
        )

    def _progress(self, job: HostedJob) -> Progress:
        progress = self._engine.progress(job.name, job.assignment.epoch)
        return dataclasses.replace(progress, num_tokens=progress.num_tokens + job.tokens_before)
