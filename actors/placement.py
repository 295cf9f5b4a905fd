"""The placement actor: owns the control database and the hosts, ticks in a thread, answers the driver.

What it decides is `mlora_ray.placement`, whom it asks is `mlora_ray.hosts`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from mlora_ray.actors.lines import RayLine
from mlora_ray.clock import SystemClock
from mlora_ray.errors import MloraError, StorageError
from mlora_ray.hosts import Hosts
from mlora_ray.locks import RunLock
from mlora_ray.placement import Placement
from mlora_ray.policies.contract import load_policy
from mlora_ray.run_facts import PlacementSettings, RunResult
from mlora_ray.store.database import ControlDatabase
from mlora_ray.store.records import DatabaseError, Machine
from mlora_ray.types import CrossLosses, CrossRequest, HostInfo, HostSettings, JobSpec, RunStatus

LOCK_TIMEOUT_S = 60.0  # for the actors of a killed driver to end
STORAGE_PATIENCE_S = 60.0  # so long a commit may fail before the run stops

log = logging.getLogger(__name__)


class PlacementActor:
    """One run. `begin` first; then `status` until its phase is done, or `save_and_stop`."""

    def __init__(self, settings: PlacementSettings, start_host: Callable[[HostSettings], Any]) -> None:
        self._settings, self._clock = settings, SystemClock()
        self._lock = RunLock(settings.lock_path, LOCK_TIMEOUT_S)
        self._db = ControlDatabase(settings.database_url)
        self._placement = Placement(
            self._db,
            load_policy(settings.policy),
            out_root=settings.out_root,
            bundle_root=settings.bundle_root,
            log_uri=settings.decisions_path,
            clock=self._clock,
        )
        self._hosts = Hosts(lambda s: RayLine(start_host(s)), settings.hosts)
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticking", daemon=True)
        self._status = self._placement.status("starting")
        self._failing_since_s: float | None = None
        self._run_number = 0

    def begin(self, specs: list[JobSpec], state_bytes: dict[str, int], is_resumed: bool) -> None:
        """Queue the jobs, of states of `state_bytes` by name, and start ticking."""
        host = self._settings.hosts[0]
        self._run_number = self._db.add_run(
            command=self._settings.command,
            base=host.base.id,
            machine=Machine(host.device, host.threads),
            started_at_s=self._clock.now_s(),
        )
        if is_resumed:
            self._placement.resume(specs, state_bytes)
        else:
            self._placement.submit(specs, state_bytes)
        self._status = self._placement.status("starting")
        self._thread.start()

    def status(self) -> RunStatus:
        return self._status

    def hosts(self) -> tuple[HostInfo, ...]:
        """Hosts that have loaded their base."""
        return tuple(self._hosts.infos.values())

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        return self._hosts.any_line().cross_evaluate(requests, max_rows)

    def result(self) -> RunResult:
        records, samples = tuple(self._placement.records()), tuple(self._placement.samples())
        return RunResult(records=records, samples=samples, usage=self._hosts.usage(), hosts=self.hosts())

    def save_and_stop(self) -> RunStatus:
        """Save every adapter, commit, and leave what has not ended PAUSED."""
        self._stop_ticking()
        self._hosts.save_all(self._placement)
        self._placement.pause_all()
        self._status = self._placement.status("done")
        return self._status

    def stop(self) -> None:
        """End the hosts and give the directory back. Nothing is saved."""
        self._stop_ticking()
        self._hosts.stop()
        self._db.close()
        self._lock.release()

    # -- the ticking thread

    def _stop_ticking(self) -> None:
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._is_stopping.wait(self._settings.tick_s):
            try:
                self._tick()
                self._failing_since_s = None
            except (DatabaseError, StorageError, OSError) as error:
                if self._out_of_patience():
                    self._end(f"storage: {error}; every job's last committed bundle is kept")
                    return
                log.warning("run=%s storage: %s", self._settings.run_id, error)
            except Exception as error:
                log.exception("run=%s placement stopped", self._settings.run_id)
                self._end(str(error) if isinstance(error, MloraError) else f"{type(error).__name__}: {error}")
                return

    def _tick(self) -> None:
        before = set(self._hosts.infos)
        self._hosts.admit_ready(self._placement)
        for name in set(self._hosts.infos) - before:
            info = self._hosts.infos[name]
            self._db.bind_host(self._run_number, info.base_sha256, dict(info.facts))
        self._hosts.tick(self._placement)
        self._placement.sample()
        if self._placement.is_done:
            self._placement.mend_metrics()
        phase = "done" if self._placement.is_done else "training" if self._hosts.infos else "starting"
        self._status = self._placement.status(phase)

    def _out_of_patience(self) -> bool:
        self._failing_since_s = self._failing_since_s or self._clock.elapsed_s()
        return self._clock.elapsed_s() - self._failing_since_s > STORAGE_PATIENCE_S

    def _end(self, error: str) -> None:
        self._status = self._placement.status("done", error)
