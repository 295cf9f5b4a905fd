"""`hosts.Line` over a Ray actor: every call has a timeout, every way to lose a host is one error."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from mlora_ray.errors import MloraError
from mlora_ray.hosts import HostGone, HostRefused
from mlora_ray.types import CrossLosses, CrossRequest, HostInfo, HostReport, HostUsage, Tick

LOAD_TIMEOUT_S = 1800.0  # a large base from a slow disk
ANSWER_TIMEOUT_S = 60.0  # a tick waits for no training step; a host that is silent so long hangs
SAVE_TIMEOUT_S = 600.0
CROSS_TIMEOUT_S = 7200.0
STOP_TIMEOUT_S = 20.0


class RayLine:
    """A line to one host actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._info = actor.describe.remote(LOAD_TIMEOUT_S)
        self._sent: Any = None

    def info(self) -> HostInfo | None:
        ready, _ = ray.wait([self._info], timeout=0)
        try:
            return ray.get(self._info, timeout=ANSWER_TIMEOUT_S) if ready else None
        except RayTaskError as error:
            raise HostRefused(_said(error)) from error
        except RayActorError as error:
            raise HostGone(f"its process died: {str(error).splitlines()[0]}") from error

    def send(self, tick: Tick) -> None:
        self._sent = self._actor.tick.remote(tick)

    def answer(self) -> HostReport:
        report: HostReport = self._get(self._sent, ANSWER_TIMEOUT_S)
        return report

    def save_all(self) -> None:
        self._get(self._actor.save_all.remote(SAVE_TIMEOUT_S), SAVE_TIMEOUT_S + ANSWER_TIMEOUT_S)

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        asked = self._actor.cross_evaluate.remote(requests, max_rows, CROSS_TIMEOUT_S)
        losses: CrossLosses = self._get(asked, CROSS_TIMEOUT_S + ANSWER_TIMEOUT_S)
        return losses

    def usage(self) -> HostUsage:
        used: HostUsage = self._get(self._actor.usage.remote(), ANSWER_TIMEOUT_S)
        return used

    def stop(self) -> None:
        """Ask it to end, then end it."""
        try:
            ray.get(self._actor.stop.remote(STOP_TIMEOUT_S), timeout=STOP_TIMEOUT_S)
        except RayError as error:  # dead or hung already: that is what is wanted
            del error
        ray.kill(self._actor, no_restart=True)

    def _get(self, ref: Any, timeout_s: float) -> Any:
        try:
            return ray.get(ref, timeout=timeout_s)
        except GetTimeoutError as error:
            raise HostGone(f"no answer within {timeout_s:g} s") from error
        except RayTaskError as error:
            raise HostGone(_said(error)) from error
        except RayActorError as error:
            raise HostGone(f"its process died: {str(error).splitlines()[0]}") from error


def _said(error: RayTaskError) -> str:
    """The actor's own error, without Ray's trace around it."""
    cause = error.cause if isinstance(error.cause, Exception) else error
    return str(cause) if isinstance(cause, MloraError) else f"{type(cause).__name__}: {cause}"
