"""The host actor: one device, one base, one thread that trains. Everything it does is `hosting.Hosting`."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import threading
from concurrent.futures import Future
from typing import Any

from mlora_ray.types import CrossLosses, CrossRequest, HostInfo, HostReport, HostSettings, HostUsage, Tick

log = logging.getLogger(__name__)


class HostActor:
    """Answers at once; `describe` waits for the base, `save_all` and `cross_evaluate` for their work."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._is_stopping = threading.Event()
        self._ready: Future[HostInfo] = Future()
        self._hosting: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="stepping", daemon=True)
        self._thread.start()

    def describe(self, timeout_s: float) -> HostInfo:
        """What this host is, once its base is loaded. Raises what loading raised."""
        return self._ready.result(timeout_s)

    def tick(self, tick: Tick) -> HostReport:
        """Take orders and answer progress. Raises when the stepping thread has died."""
        if self._error is not None:
            raise self._error
        self._hosting.acknowledge(tick.acks)
        self._hosting.assign(tick.assignments)
        self._hosting.release(tick.releases)
        report: HostReport = self._hosting.report()
        return report

    def save_all(self, timeout_s: float) -> None:
        """Return when every adapter's newest step is in a bundle (or a warning says why not)."""
        self._hosting.call(self._hosting.save_all).result(timeout_s)

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
        """Stop training after the present step. Nothing is saved."""
        self._is_stopping.set()
        self._thread.join(timeout_s)
        shutil.rmtree(self._settings.page_dir, ignore_errors=True)

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

    def _load(self) -> None:
        from mlora_ray.engine.base import load_base
        from mlora_ray.engine.engine import Engine
        from mlora_ray.hosting import Hosting
        from mlora_ray.machine import machine_facts

        settings = self._settings
        shutil.rmtree(settings.page_dir, ignore_errors=True)  # pages of a process before this one
        base = load_base(settings.base, settings.device, settings.threads)
        engine = Engine(
            base,
            memory_limit_bytes=settings.memory_limit_bytes,
            adapter_memory_bytes=settings.adapter_memory_bytes,
            token_budget=settings.token_budget,
            page_dir=settings.page_dir,
        )
        self._hosting = Hosting(settings.id, engine, settings.bundle_root)
        self._ready.set_result(
            HostInfo(
                id=settings.id,
                base=settings.base.id,
                base_sha256=base.sha256,
                device_type=base.device.type,
                pid=os.getpid(),
                memory_limit_bytes=engine.budget.limit_bytes,
                base_bytes=engine.budget.base_bytes,
                activation_bytes=engine.budget.activation_bytes,
                adapter_bytes=engine.budget.adapter_bytes,
                token_budget=engine.budget.token_budget,
                summary=engine.budget.describe(),
                facts=tuple(machine_facts(base.device.type).items()),
            )
        )
