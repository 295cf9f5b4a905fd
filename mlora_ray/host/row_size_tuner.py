"""A host's packed rows: how many tokens they hold, and what they took, between its engine and what it reports."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mlora_ray.policies.models.row_size_control import RowMeasurement, control_rows, start_control
from mlora_ray.policies.models.step_time_fit import added, row_stats
from mlora_ray.types import RowStats

if TYPE_CHECKING:
    from mlora_ray.engine.engine import Engine

WARM_ROWS = 5  # of a host: kernels are made, pages are touched for the first time
AS_SET = "as set by token_budget"

log = logging.getLogger(__name__)


class RowSizeTuner:
    """One engine's. Where its user has set the size it stays."""

    def __init__(self, host: str, engine: Engine, is_set: bool) -> None:
        self._host, self._engine = host, engine
        self._control = None if is_set else start_control(engine.budget.token_budget)
        self._num_rows = 0
        self._stats = RowStats()

    def take(self, seconds: float) -> None:
        """The engine has stepped in so many seconds: learn from its row, say how large the next may be."""
        row, budget = self._engine.last_row, self._engine.budget.token_budget
        if row is not None and seconds > 0:
            self._num_rows += 1
            if self._num_rows > WARM_ROWS:
                self._stats = added(self._stats, row_stats(row.num_tokens, row.num_steps, row.rank_tokens, seconds))
        if self._control is None:
            return
        measured = RowMeasurement(
            num_tokens=row.num_tokens if row else 0,
            seconds=seconds,
            room=row.room if row else 0,
            is_full=row is not None and row.is_full,
            token_budget=budget,
        )
        chosen = self._control.row_tokens
        self._engine.row_tokens, why, self._control = control_rows(self._control, measured)
        if self._control.row_tokens != chosen:
            log.info("row_tokens host=%s tokens=%d before=%d why=%s", self._host, self.chosen, chosen, why)

    @property
    def chosen(self) -> int:
        """Tokens of a row at most, whatever is being tried beside it."""
        size = self._control.row_tokens if self._control else self._engine.row_tokens
        return min(size, self._engine.budget.token_budget)

    def facts(self) -> dict[str, Any]:
        """For the host's report."""
        why = self._control.why if self._control else AS_SET
        return {"row_tokens": self.chosen, "row_why": why, "rows": self._stats}
