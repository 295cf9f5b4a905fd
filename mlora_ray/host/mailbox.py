"""What lies between a host's stepping thread and its callers: orders in, reports out until acknowledged.

Callers never wait for a training step. A report stays until placement acknowledges it, so a lost answer
loses nothing; placement drops what it has seen before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from mlora_ray.types import (
    Ack,
    Arrival,
    Assignment,
    BundleReport,
    FailureReport,
    HostReport,
    Progress,
    Release,
    StepReport,
)

T = TypeVar("T")
Order = Assignment | Release | Callable[[], None]
Report = BundleReport | FailureReport


class Mailbox:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._orders: list[Order] = []
        self._reports: dict[Ack, Report] = {}
        self._progress: dict[tuple[str, int], Progress] = {}
        self._facts: dict[str, Any] = {}
        self._arrivals: list[Arrival] = []
        self._owned: frozenset[tuple[str, int]] | None = None
        self._doubted: set[tuple[str, int]] = set()

    # -- callers

    def set_ownership(self, owned: frozenset[tuple[str, int]] | None) -> None:
        """What placement says this host owns; None: it says nothing of it."""
        with self._lock:
            self._owned = owned

    def post(self, orders: tuple[Assignment, ...] | tuple[Release, ...]) -> None:
        """Leave orders. An assignment shows in the next report's progress at once, so it is sent only once."""
        with self._lock:
            self._orders += orders
            for order in orders:
                if isinstance(order, Assignment):
                    self._progress.setdefault((order.spec.name, order.epoch), _expected(order))
        self._wake.set()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Have the stepping thread call `function` between two steps."""
        future: Future[T] = Future()

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

    def announce(self, arrival: Arrival) -> None:
        with self._lock:
            self._arrivals.append(arrival)

    def expect(self, assignment: Assignment) -> None:
        """Show an assignment that comes by another way than `post`."""
        with self._lock:
            self._progress.setdefault((assignment.spec.name, assignment.epoch), _expected(assignment))

    def answer(self, host: str, base: str) -> HostReport:
        """Everything not yet acknowledged, and where each adapter stands."""
        with self._lock:
            reports = list(self._reports.values())
            arrivals, self._arrivals = tuple(self._arrivals), []
            return HostReport(
                host=host,
                base=base,
                progress=tuple(self._progress.values()),
                bundles=tuple(r for r in reports if isinstance(r, BundleReport)),
                failures=tuple(r for r in reports if isinstance(r, FailureReport)),
                arrivals=arrivals,
                **self._facts,
            )

    # -- the stepping thread

    def take(self) -> list[Order]:
        self._wake.clear()
        with self._lock:
            orders, self._orders = self._orders, []
        return orders

    def wait(self, timeout_s: float) -> None:
        """Sleep until an order comes, or `wake`."""
        self._wake.wait(timeout_s)

    def wake(self) -> None:
        self._wake.set()

    def report(self, report: Report) -> None:
        is_failure = isinstance(report, FailureReport)
        with self._lock:
            self._reports[Ack(report.job, report.epoch, report.step, is_failure)] = report

    def show(self, progress: list[Progress], **facts: Any) -> None:
        """Replace what the next answers say; assignments not yet taken stay shown."""
        with self._lock:
            waiting = [o for o in self._orders if isinstance(o, Assignment)]
            self._progress = {(p.job, p.epoch): p for p in [*map(_expected, waiting), *progress]}
            self._facts = facts

    def fenced_jobs(self, here: Iterable[tuple[str, int]]) -> list[str]:
        """Names of those that another host owns by now, or nobody.

        Said twice: one statement may be older than an adapter that has just arrived.
        """
        with self._lock:
            owned, self._owned = self._owned, None
        if owned is None:
            return []
        missing = set(here) - owned
        gone, self._doubted = missing & self._doubted, missing
        return [name for name, _ in gone]

    def num_unacknowledged(self) -> dict[tuple[str, int], int]:
        """Steps that placement has not acknowledged, by job and epoch."""
        counts: dict[tuple[str, int], int] = {}
        with self._lock:
            for report in self._reports.values():
                if isinstance(report, BundleReport):
                    key = (report.job, report.epoch)
                    counts[key] = counts.get(key, 0) + len(report.steps)
        return counts

    def unacknowledged(self, job: str, epoch: int) -> tuple[StepReport, ...]:
        """Steps of this job's bundles that placement has not acknowledged, in order."""
        with self._lock:
            reports = [r for r in self._reports.values() if isinstance(r, BundleReport)]
        mine = [r for r in reports if (r.job, r.epoch) == (job, epoch)]
        return tuple(step for r in sorted(mine, key=lambda r: r.step) for step in r.steps)


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
