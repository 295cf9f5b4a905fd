"""The jobs of one command on a service, from their submission to their end."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mlora_ray.actors.client import Service
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.run.watch import nothing, wait_for_end
from mlora_ray.types.service import SubmitRequest
from mlora_ray.types.status import RunStatus


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Started:
    """When a command began."""

    at: str = field(default_factory=_now)  # ISO 8601
    monotonic_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True, kw_only=True)
class TrainSession:
    """Driven from any thread, without a terminal: signals are heard only while `interrupt` is entered.

    `start` returns once the jobs are queued, `wait` when they have ended or soon after `interrupt` is set; then the
    caller sums up (`finish`) or saves, and `end`s what was started for this run alone.
    """

    service: Service
    request: SubmitRequest
    storage: str  # directory or fsspec URL
    again: str  # the command that goes on with these jobs
    started: Started = field(default_factory=Started)
    interrupt: Interrupt = field(default_factory=Interrupt)
    steps_before: int = 0  # that these jobs had when they were submitted, all together
    service_s: float = 0.0  # the service's own clock then: its throughput curve is by that

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.request.specs]

    @property
    def is_local(self) -> bool:
        """The storage is a path, so that its files can be read and written here."""
        return "://" not in self.storage

    def start(self) -> None:
        """Queue the jobs; those that the service has go on. Raises InputError, MloraError."""
        names = set(self.names)
        self.steps_before = sum(r.step for r in self.service.records() if r.spec.name in names)
        self.service.submit(self.request)
        self.service_s = self.progress().elapsed_s

    def progress(self) -> RunStatus:
        return self.service.status(self.names)

    def wait(self, on_status: Callable[[RunStatus], None] = nothing) -> RunStatus:
        """The last status; raises as `wait_for_end` does."""
        return wait_for_end(self.service, self.names, self.interrupt, on_status)

    def save(self) -> RunStatus:
        """Save every job that has not ended, and leave it PAUSED."""
        return self.service.save_and_pause(self.names)

    def end(self) -> None:
        """End a service of this run alone; one that others use goes on."""
        if self.service.is_private:
            self.service.stop()
