"""What lies between a host's stepping thread and its callers: orders in, reports out until acknowledged.

Callers never wait for a training step. A report stays until placement acknowledges it, so a lost answer
loses nothing; placement drops what it has seen before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mlora_ray.types import Ack, Assignment, BundleReport, FailureReport, HostReport, Progress, Release

Order = Assignment | Release | Callable[[], None]
Report = BundleReport | FailureReport


class Mailbox:
    """Thread-safe. Times are the caller's, in seconds of one clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._orders: list[Order] = []
        self._reports: dict[Ack, tuple[Report, float]] = {}
        self._progress: dict[tuple[str, int], Progress] = {}
        self._facts: dict[str, Any] = {}

    # -- callers

    def post(self, orders: tuple[Assignment, ...] | tuple[Release, ...]) -> None:
        """Leave orders. An assignment shows in the next report's progress at once, so it is sent only once."""
        with self._lock:
            self._orders += orders
            for order in orders:
                if isinstance(order, Assignment):
                    self._progress.setdefault((order.spec.name, order.epoch), _expected(order))
        self._wake.set()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Have the stepping thread call `function` between two steps."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - it travels to the caller in the future
                future.set_exception(error)

        with self._lock:
            self._orders.append(run)
        self._wake.set()
        return future

    def acknowledge(self, acks: tuple[Ack, ...]) -> None:
        with self._lock:
            for ack in acks:
                self._reports.pop(ack, None)

    def answer(self, host: str, base: str) -> HostReport:
        """Everything not yet acknowledged, and where each adapter stands."""
        with self._lock:
            reports = [report for report, _ in self._reports.values()]
            return HostReport(
                host=host,
                base=base,
                progress=tuple(self._progress.values()),
                bundles=tuple(r for r in reports if isinstance(r, BundleReport)),
                failures=tuple(r for r in reports if isinstance(r, FailureReport)),
                **self._facts,
            )

    # -- the stepping thread

    def take(self) -> list[Order]:
        self._wake.clear()
        with self._lock:
            orders, self._orders = self._orders, []
        return orders

    def wait(self, timeout_s: float) -> None:
        """Sleep until an order comes."""
        self._wake.wait(timeout_s)

    def report(self, report: Report, now_s: float) -> None:
        is_failure = isinstance(report, FailureReport)
        with self._lock:
            self._reports[Ack(report.job, report.epoch, report.step, is_failure)] = (report, now_s)

    def show(self, progress: list[Progress], **facts: Any) -> None:
        """Replace what the next answers say; assignments not yet taken stay shown."""
        with self._lock:
            waiting = [o for o in self._orders if isinstance(o, Assignment)]
            self._progress = {(p.job, p.epoch): p for p in [*map(_expected, waiting), *progress]}
            self._facts = facts

    def oldest_unacknowledged_s(self, now_s: float) -> float:
        """Age of the oldest report that nobody has acknowledged; 0 when there is none."""
        with self._lock:
            return max((now_s - at_s for _, at_s in self._reports.values()), default=0.0)


def _expected(assignment: Assignment) -> Progress:
    spec = assignment.spec
    return Progress(
        job=spec.name,
        epoch=assignment.epoch,
        step=0,
        total_steps=spec.total_steps,
        loss=float("nan"),
        num_tokens=0,
        is_resident=False,
    )
