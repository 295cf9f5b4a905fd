"""What a host holds of one job between its last bundle and now, and how fast the host trains."""

from __future__ import annotations

import dataclasses
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from mlora_ray.types import Assignment, BundleReport, StepReport

if TYPE_CHECKING:
    from mlora_ray.data.tokenized_rows import Rows
    from mlora_ray.store.adapter_files import EvalLosses

RATE_WINDOW_S = 15.0
STORAGE_FAILURE = "storage"  # how the error of a job begins that no attempt could save
MIN_WINDOW_S = 1.0  # a first step alone says little


@dataclasses.dataclass(slots=True)
class Held:
    """One job on this host, between its last bundle and now."""

    assignment: Assignment
    eval_rows: Rows | None
    tokens_before: int  # trained before it came here
    saved_step: int
    saved_uri: str
    steps: list[StepReport] = dataclasses.field(default_factory=list)
    losses: EvalLosses | None = None
    is_leaving: bool = False
    failure: str = ""  # it has failed, and ends when its last good state is saved
    saving: Future[BundleReport] | None = None
    is_held: bool = False  # too far ahead of what is committed: it waits for storage
    is_save_due: bool = False
    attempts: int = 0
    retry_at_s: float = 0.0

    @property
    def name(self) -> str:
        return self.assignment.spec.name


class RateMeter:
    """Tokens per second over the last `RATE_WINDOW_S`; time comes in."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()
        self._first_s: float | None = None

    def add(self, now_s: float, num_tokens: int) -> None:
        if self._first_s is None:
            self._first_s = now_s
        self._counts.append((now_s, num_tokens))

    def per_s(self, now_s: float) -> float:
        """0 before the first step, and when nothing was trained in the window."""
        while self._counts and self._counts[0][0] < now_s - RATE_WINDOW_S:
            self._counts.popleft()
        if self._first_s is None:
            return 0.0
        window_s = max(MIN_WINDOW_S, min(RATE_WINDOW_S, now_s - self._first_s))
        return sum(tokens for _, tokens in self._counts) / window_s
