"""What a program hears of a run while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlora_ray.types.status import JobStatus, RunStatus

if TYPE_CHECKING:
    from mlora_ray.actors.client import Service
    from mlora_ray.types import StepReport
    from mlora_ray.types.records import Event


class Callback:
    """Override what you want to hear. Called from the run's own thread, in order; an error in one ends the watching.

    >>> class Losses(Callback):
    ...     def on_step(self, report):
    ...         print(report.job, report.step, report.loss > 0)
    >>> _ = train([Job("a", rows, r=4, max_steps=2)], "tiny-llama", third, progress=False, callbacks=[Losses()])
    a 1 True
    a 2 True
    """

    def on_status(self, status: RunStatus) -> None:
        """Several times a second: every job as it is now."""

    def on_step(self, report: StepReport) -> None:
        """Each optimizer step of each job once, in the order of its steps, when it is committed."""

    def on_event(self, event: Event) -> None:
        """What happened to jobs and hosts: placed, saved, moved, lost, failed."""

    def on_job_end(self, status: JobStatus) -> None:
        """A job has succeeded, failed or was cancelled."""


class Listeners:
    """Asks a service for what the callbacks have not heard yet, and only for what one of them overrides."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks
        self._step_hearers = _overriding(callbacks, "on_step")
        self._event_hearers = _overriding(callbacks, "on_event")
        self._steps: dict[str, int] = {}
        self._event = 0
        self._ended: set[str] = set()

    def begin(self, service: Service) -> None:
        """What happened before is nobody's news: a run that goes on has the events of its first part."""
        if self._event_hearers:
            self._event = max((event.id for event in service.events()), default=0)

    def hear(self, service: Service, status: RunStatus) -> None:
        """Raises what a callback raises, and MloraError where the service does not answer."""
        for callback in self._callbacks:
            callback.on_status(status)
        if self._step_hearers:
            self._hear_steps(service, status)
        if self._event_hearers:
            self._hear_events(service, {job.name for job in status.jobs})
        for job in status.jobs:
            if job.state.is_final and job.name not in self._ended:
                self._ended.add(job.name)
                for callback in self._callbacks:
                    callback.on_job_end(job)

    def _hear_steps(self, service: Service, status: RunStatus) -> None:
        for job in status.jobs:
            heard = self._steps.get(job.name, 0)
            if job.step <= heard:
                continue
            for report in service.steps(job.name, heard):
                self._steps[job.name] = report.step
                for callback in self._step_hearers:
                    callback.on_step(report)

    def _hear_events(self, service: Service, names: set[str]) -> None:
        for event in service.events(self._event):
            self._event = event.id
            if not event.job or event.job in names:
                for callback in self._event_hearers:
                    callback.on_event(event)


def _overriding(callbacks: Sequence[Callback], method: str) -> list[Callback]:
    return [each for each in callbacks if getattr(type(each), method) is not getattr(Callback, method)]
