"""The placement actor: ticks in a thread and answers users. What it decides is `mlora_ray.control.service`.

Ray restarts it after a crash: it opens the database again, takes the hosts over and goes on; they step meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from mlora_ray.actors.ray_metrics import ray_instrument
from mlora_ray.actors.transport import RayTransport, cluster_name, was_restarted
from mlora_ray.clock import SystemClock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.metrics import Metrics
from mlora_ray.control.service import PlacementService
from mlora_ray.errors import DatabaseError, DatabaseRefused, MloraError, StorageError
from mlora_ray.types import CrossLosses, CrossRequest, HostInfo, HostSettings, StepReport
from mlora_ray.types.records import Event, JobRecord
from mlora_ray.types.service import PolicySnapshot, RunResult, SubmitRequest
from mlora_ray.types.status import HostStatus, RunStatus

OPEN_TIMEOUT_S = 60.0
SAVE_TIMEOUT_S = 600.0

log = logging.getLogger(__name__)

Names = tuple[str, ...]


class PlacementActor:
    """One service. Every method waits for the database to be open, and raises why when it cannot be."""

    def __init__(
        self, settings: ServiceSettings, start: Callable[[HostSettings], Any], find: Callable[[str], Any]
    ) -> None:
        self._settings = settings
        self._transport, self._metrics = RayTransport(start, find), Metrics(settings.name, ray_instrument)
        self._lock = threading.RLock()
        self._opened, self._is_stopping = threading.Event(), threading.Event()
        self._service: PlacementService | None = None
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="ticking", daemon=True)
        self._thread.start()

    def settings(self) -> ServiceSettings:
        self._do(lambda control: None)
        return self._settings

    def submit(self, request: SubmitRequest) -> None:
        self._do(lambda control: control.submit(request))

    def status(self, names: Names = ()) -> RunStatus:
        return self._do(lambda control: control.status(names, self._error))

    def records(self, names: Names = ()) -> tuple[JobRecord, ...]:
        return self._do(lambda control: tuple(control.placement.records(names)))

    def result(self, names: Names = ()) -> RunResult:
        return self._do(lambda control: control.result(names))

    def situation(self) -> PolicySnapshot:
        return self._do(lambda control: control.situation())

    def hosts(self, is_gone_included: bool = False) -> tuple[HostStatus, ...]:
        return self._do(lambda control: control.hosts(is_gone_included))

    def infos(self) -> tuple[HostInfo, ...]:
        """Hosts that have loaded their base."""
        return self._do(lambda control: tuple(control.fleet.infos.values()))

    def events(self, after: int = 0, job: str = "", limit: int = 0) -> tuple[Event, ...]:
        return self._do(lambda control: control.events(after, job, limit))

    def steps(self, job: str, after: int = 0) -> tuple[StepReport, ...]:
        return self._do(lambda control: control.steps(job, after))

    def pause(self, names: Names) -> Names:
        return self._do(lambda control: control.pause(names))

    def resume(self, names: Names) -> Names:
        return self._do(lambda control: control.resume(names))

    def cancel(self, names: Names) -> Names:
        return self._do(lambda control: control.cancel(names))

    def drain(self, target: str) -> Names:
        return self._do(lambda control: control.drain(target))

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        connection = self._do(lambda control: control.evaluator(requests))
        return connection.cross_evaluate(requests, max_rows)

    def save_and_pause(self, names: Names = ()) -> RunStatus:
        """Save these jobs at their next step, commit, and leave them PAUSED; who cannot save, at its last bundle."""
        self.pause(names)
        deadline_s = time.monotonic() + SAVE_TIMEOUT_S
        while self._thread.is_alive() and time.monotonic() < deadline_s:
            if self._do(lambda control: control.is_at_rest(names)):
                break
            time.sleep(self._settings.tick_s / 4)
        self._do(lambda control: control.placement.commands.fence_paused(names))
        return self.status(names)

    def stop(self, timeout_s: float) -> None:
        """End the hosts and give the database up. Nothing is saved."""
        self._is_stopping.set()
        self._thread.join(timeout_s)
        if self._service is not None:
            self._service.close()
            self._transport.close().result(timeout_s)

    def _do(self, ask: Callable[[PlacementService], Any]) -> Any:
        self._opened.wait(OPEN_TIMEOUT_S)
        with self._lock:
            if self._service is None:
                raise MloraError(self._error or f"the control database was not open within {OPEN_TIMEOUT_S:g} s")
            return ask(self._service)

    # -- the ticking thread

    def _run(self) -> None:
        try:
            self._service, self._error = self._open(), ""
            self._opened.set()
            while not self._is_stopping.wait(self._settings.tick_s):
                with self._lock:
                    self._service.patient_tick()
        except Exception as error:
            log.exception("service=%s placement stopped", self._settings.name)
            self._error = str(error) if isinstance(error, MloraError) else f"{type(error).__name__}: {error}"
        self._opened.set()

    def _open(self) -> PlacementService:
        """Restarted by Ray, it waits for a database that is away; at its first start it says why there is none."""
        holder, was_here = f"{self._settings.name} on {cluster_name()}", was_restarted()
        while True:
            try:
                return PlacementService(self._settings, self._transport, SystemClock(), holder, self._metrics)
            except DatabaseRefused:
                raise
            except (DatabaseError, StorageError) as error:
                if not was_here or self._is_stopping.is_set():
                    raise
                self._error = str(error)
                log.warning("service=%s %s", self._settings.name, error)
                time.sleep(self._settings.tick_s)
