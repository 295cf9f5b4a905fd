"""What a host holds of one job between its last bundle and now, and how fast the host trains."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future
from typing import TYPE_CHECKING

from mlora_ray.types import Assignment, BundleReport, StepReport

if TYPE_CHECKING:
    from mlora_ray.data.tokenized_rows import Rows
    from mlora_ray.store.adapter_files import EvalLosses


@dataclasses.dataclass(slots=True)
class HostedJob:
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
