"""What a host has of one job between its last bundle and now."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mlora_ray.types import Assignment, BundleReport, StepReport

if TYPE_CHECKING:
    from mlora_ray.data.tokenized_rows import Rows
    from mlora_ray.store.adapter_files import EvalLosses


@dataclasses.dataclass(slots=True)
class HostedJob:
    """One job on this host. Whether and when it is saved: `save_queue`."""

    assignment: Assignment
    eval_rows: Rows | None
    tokens_before: int  # trained before it came here
    saved_step: int
    saved_uri: str
    steps: list[StepReport] = dataclasses.field(default_factory=list)  # since the last bundle
    losses: EvalLosses | None = None
    is_leaving: bool = False  # placement has asked for it: it goes when its newest step is saved
    failure: str = ""  # it goes when its last good state is saved, or cannot be
    is_unsaved: bool = False  # that failure was of storage

    @property
    def name(self) -> str:
        return self.assignment.spec.name

    @property
    def key(self) -> tuple[str, int]:
        """As placement names what a host owns."""
        return self.name, self.assignment.epoch

    def note_saved(self, report: BundleReport) -> None:
        """The steps of this bundle are the report's now."""
        self.saved_step, self.saved_uri = report.step, report.bundle_uri
        self.steps = self.steps[len(report.steps) :]
