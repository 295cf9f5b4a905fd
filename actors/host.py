"""The host actor: one device, one base, one thread that trains. Everything it does is `HostRuntime`."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from concurrent.futures import Future
from typing import Any

from mlora_ray.types import (
    Assignment,
    CrossLosses,
    CrossRequest,
    HostInfo,
    HostReport,
    HostSettings,
    HostUsage,
    MovedState,
    Tick,
)

END_S = 2.0  # for the answer of `stop` to leave

log = logging.getLogger(__name__)


class HostActor:
    """Answers at once; but `describe` waits for the base, `release_state` and `cross_evaluate` for a step boundary."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._is_stopping = threading.Event()
        self._ready: Future[HostInfo] = Future()
        self._hosting: Any = None
        self._error: Exception | None = None
        self._heard_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="stepping", daemon=True)
        self._thread.start()
        threading.Thread(target=self._end_if_orphaned, name="orphan", daemon=True).start()

    def describe(self, timeout_s: float) -> HostInfo:
        """What this host is, once its base is loaded. Raises what loading raised."""
        self._heard_s = time.monotonic()
        return self._ready.result(timeout_s)

    def tick(self, tick: Tick) -> HostReport:
        """Take orders and answer progress. Raises when the stepping thread has died."""
        self._heard_s = time.monotonic()
        if self._error is not None:
            raise self._error
        self._hosting.acknowledge(tick.acks)
        self._hosting.assign(tick.assignments)
        self._hosting.release(tick.releases)
        self._hosting.set_ownership(tick.owned)
        report: HostReport = self._hosting.report()
        return report

    def release_state(self, job: str, epoch: int, timeout_s: float) -> MovedState:
        """Let an adapter go; its state travels to the host that is waiting for it."""
        moved: MovedState = self._hosting.call(lambda: self._hosting.release_state(job, epoch)).result(timeout_s)
        return moved

    def receive(self, assignment: Assignment, moved: MovedState, timeout_s: float) -> None:
        self._hosting.receive(assignment, moved).result(timeout_s)

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int, timeout_s: float) -> CrossLosses:
        future = self._hosting.call(lambda: self._hosting.cross_evaluate(requests, max_rows))
        losses: CrossLosses = future.result(timeout_s)
        return losses

    def usage(self) -> HostUsage:
        """CPU seconds and the peak of memory: resident on a CPU, allocated on a GPU."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        peak_bytes = used.ru_maxrss * 1024
        if self._settings.device.startswith("cuda"):
            import torch

            peak_bytes = torch.cuda.max_memory_reserved()
        return HostUsage(used.ru_utime + used.ru_stime, peak_bytes)

    def stop(self, timeout_s: float) -> None:
        """Stop training after the present step, and end soon. Nothing is saved.

        It ends by itself: Ray cannot kill an actor during whose creation the GCS began again (2.60).
        """
        self._is_stopping.set()
        self._thread.join(timeout_s)
        if self._hosting is not None:
            self._hosting.close()
        ending = threading.Timer(END_S, os._exit, (0,))
        ending.daemon = True
        ending.start()

    # -- the stepping thread: everything of torch happens here, so that one thread setting holds

    def _run(self) -> None:
        try:
            self._load()
        except Exception as error:  # noqa: BLE001 - the actor's edge: `describe` raises it
            self._error = error
            self._ready.set_exception(error)
            return
        try:
            while not self._is_stopping.is_set():
                if not self._hosting.advance():
                    self._hosting.wait()
        except Exception as error:
            log.exception("host=%s the stepping thread died", self._settings.id)
            self._error = error

    def _end_if_orphaned(self) -> None:
        """In a thread of its own: nobody may be left to stop a host that hangs or cannot load."""
        while not self._is_stopping.wait(1.0):
            if time.monotonic() - self._heard_s > self._settings.orphan_s:
                log.error("host=%s ends: no word from placement for %g s", self._settings.id, self._settings.orphan_s)
                os._exit(1)

    def _load(self) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see the command line's
        import ray

        from mlora_ray.host.startup import start_hosting

        node_id = ray.get_runtime_context().get_node_id()
        self._hosting, info = start_hosting(self._settings, node_id, ray.util.get_node_ip_address())
        self._heard_s = time.monotonic()
        self._ready.set_result(info)
