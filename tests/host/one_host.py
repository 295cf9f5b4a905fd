"""A host by itself on the tiny base; its saves are waited for at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from mlora_ray.clock import VirtualClock
from mlora_ray.engine.base import Base
from mlora_ray.engine.engine import Engine
from mlora_ray.host.runtime import HostRuntime
from mlora_ray.types import (
    Ack,
    Assignment,
    BundleReport,
    FailureReport,
    HostReport,
    HostSettings,
    JobSpec,
)


class Inline(Executor):
    """Storage that is waited for at once, so that a test's steps and saves have one order."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it travels in the future
            future.set_exception(error)
        return future


class Host:
    """A hosting with its reports gathered and acknowledged as placement would."""

    def __init__(self, folder: Path, base: Base, clock: VirtualClock, row_tokens: int = 0, **settings: int) -> None:
        self.folder, self.clock = folder, clock
        pages = str(folder / "pages")
        self.engine = Engine(base, memory_limit_bytes=4 << 30, page_dir=pages, token_budget=row_tokens)
        where = {"base": base.spec, "bundle_root": str(folder / "bundles"), "page_dir": ""}
        self.settings = HostSettings(id="h-0", **where, **settings)
        self.hosting = HostRuntime(self.settings, self.engine, clock, Inline())
        self.bundles: list[BundleReport] = []
        self.failures: list[FailureReport] = []

    def assign(self, spec: JobSpec, epoch: int = 1, bundle_uri: str = "") -> None:
        out_uri = str(self.folder / "out" / spec.name)
        self.hosting.assign((Assignment(spec=spec, epoch=epoch, bundle_uri=bundle_uri, out_uri=out_uri),))

    def advance(self, until: Callable[[], bool] = lambda: False, max_calls: int = 200) -> None:
        """Advance until there is nothing to do, or `until` holds; time passes a second a call."""
        idle = 0
        for _ in range(max_calls):
            idle = 0 if self.hosting.advance() else idle + 1
            self.clock.advance(1.0)
            self.take()
            if until() or idle > 40:
                return
        raise AssertionError("still busy")

    def take(self) -> HostReport:
        report = self.hosting.report()
        self.bundles += report.bundles
        self.failures += report.failures
        acks = [Ack(b.job, b.epoch, b.step) for b in report.bundles]
        self.hosting.acknowledge((*acks, *(Ack(f.job, f.epoch, f.step, True) for f in report.failures)))
        return report

    def final(self, job: str) -> BundleReport:
        return next(b for b in self.bundles if b.job == job and b.is_final)
