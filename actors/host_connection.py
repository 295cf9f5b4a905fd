"""`HostConnection` over a Ray actor: no call waits longer than its limit, every way to lose a host is one error."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from mlora_ray.actors.ray_errors import one_line
from mlora_ray.control.transport import HostGone, HostRefused
from mlora_ray.types import CrossLosses, CrossRequest, HostInfo, HostReport, HostUsage, Tick

LOAD_TIMEOUT_S = 1800.0  # a large base from a slow disk
ANSWER_TIMEOUT_S = 10.0
CROSS_TIMEOUT_S = 7200.0
STOP_TIMEOUT_S = 20.0


class RayHostConnection:
    """A line to one host actor, which may still be on its way: its handle comes as a future."""

    def __init__(self, actor: Future[Any]) -> None:
        self._coming = actor
        self._described: Any = None
        self._used: Any = None  # answered at once by an actor that has a process
        self.asked: Any = None  # the reference of the tick that is not answered yet

    @property
    def actor(self) -> Any:
        """The handle. Raises HostGone when it could not be had."""
        try:
            return self._coming.result(0)
        except TimeoutError as error:
            raise HostGone("Ray has not registered its actor yet") from error
        except Exception as error:
            raise HostGone(f"its actor could not be made: {one_line(error)}") from error

    def info(self) -> HostInfo | None:
        if not self._coming.done():
            return None
        if self._described is None:
            self._described = self.actor.describe.remote(LOAD_TIMEOUT_S)
        ready, _ = ray.wait([self._described], timeout=0)
        try:
            return ray.get(self._described, timeout=ANSWER_TIMEOUT_S) if ready else None
        except RayTaskError as error:
            raise HostRefused(one_line(error)) from error
        except RayError as error:
            raise HostGone(f"its process died: {one_line(error)}") from error

    def is_placed(self) -> bool:
        if not self._coming.done() or self._coming.exception() is not None:
            return False
        if self._used is None:
            self._used = self.actor.usage.remote()
        return bool(ray.wait([self._used], timeout=0)[0])

    def send(self, tick: Tick) -> None:
        self.asked = self.actor.tick.remote(tick)

    def answer(self) -> HostReport | None:
        ready, _ = ray.wait([self.asked], timeout=0)
        if not ready:
            return None
        report: HostReport = self._get(self.asked, ANSWER_TIMEOUT_S)
        self.asked = None
        return report

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        asked = self.actor.cross_evaluate.remote(requests, max_rows, CROSS_TIMEOUT_S)
        losses: CrossLosses = self._get(asked, CROSS_TIMEOUT_S + ANSWER_TIMEOUT_S)
        return losses

    def usage(self) -> HostUsage:
        used: HostUsage = self._get(self.actor.usage.remote(), ANSWER_TIMEOUT_S)
        return used

    def stop(self) -> None:
        """Ask it to end, then end it, in a thread of its own: a hung host, or a silent Ray, holds no tick up."""
        self._end = threading.Thread(target=self._stop, name="stopping", daemon=True)
        self._end.start()

    def join(self, timeout_s: float) -> None:
        """Wait for `stop` to be done."""
        self._end.join(timeout_s)

    def _stop(self) -> None:
        try:
            actor = self._coming.result(STOP_TIMEOUT_S)
        except Exception:  # noqa: BLE001 - there never was an actor
            return
        try:
            ray.get(actor.stop.remote(STOP_TIMEOUT_S), timeout=STOP_TIMEOUT_S)
        except RayError as error:  # dead or hung already: that is what is wanted
            del error
        ray.kill(actor, no_restart=True)

    def _get(self, ref: Any, timeout_s: float) -> Any:
        try:
            return ray.get(ref, timeout=timeout_s)
        except GetTimeoutError as error:
            raise HostGone(f"no answer within {timeout_s:g} s") from error
        except RayTaskError as error:
            raise HostGone(one_line(error)) from error
        except RayError as error:  # its process died, or the object with its answer is lost
            raise HostGone(f"its process died: {one_line(error)}") from error
