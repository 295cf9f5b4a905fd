"""A policy that does what a test says."""

from __future__ import annotations

from collections.abc import Callable

from mlora_ray.policies.placement.fifo import Fifo
from mlora_ray.types import (
    Action,
    ClusterView,
    Migrate,
    PolicyState,
)
from tests.fakes.service import Service


class Scripted:
    """Fifo, but for the actions that a test puts in."""

    name = "scripted"
    next: Callable[[ClusterView], list[Action]] | None = None

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        if Scripted.next is None:
            return Fifo().decide(view, state)
        asked, Scripted.next = Scripted.next, None
        return asked(view), state


def other_host(service: Service, job: str) -> str:
    return next(h.settings.id for h in service.transport.living if h.settings.id != service.job(job).record.host)


def move(service: Service, job: str) -> tuple[str, str]:
    """Have the policy move it; answers from where to where."""
    source, target = service.job(job).record.host, other_host(service, job)
    epoch = service.job(job).record.epoch
    Scripted.next = lambda view: [Migrate(adapter=job, host=target, epoch=epoch)]
    return source, target
