"""A host that trains in no time, over real bundle files."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlora_ray.control.transport import HostGone
from mlora_ray.errors import StorageError
from mlora_ray.store.bundles import bundle_uri, read_bundle, write_bundle
from mlora_ray.types import (
    Ack,
    Arrival,
    Assignment,
    BundleReport,
    CrossLosses,
    CrossRequest,
    FailureReport,
    HostInfo,
    HostReport,
    HostSettings,
    HostUsage,
    MovedState,
    Progress,
    RowStats,
    StepReport,
    Tick,
)
from tests.conftest import make_step


@dataclasses.dataclass(slots=True)
class _Training:
    assignment: Assignment
    step: int
    saved: list[StepReport]


class FakeHost:
    """The host protocol (`control.transport.HostConnection`) in this process: one training step for each job and tick.

    Bundles are real files. `fail_after` jobs fail at a step of their own; `is_dead` cuts it off; `is_hung` answers
    nothing.
    """

    def __init__(self, settings: HostSettings) -> None:
        self.settings = settings
        self.is_dead = self.is_loading = self.is_hung = self.is_homeless = False
        self.memory_bytes = 0
        self.clock_s = self.stalled_s = 0.0
        self.row_tokens, self.row_why = 1536, "what memory allows"
        self.rows = RowStats()
        self.base_sha256 = "b" * 64
        self.numerics = "n"
        self.node_id = f"node-of-{settings.id}"
        self.arrivals: list[Arrival] = []
        self.num_steps = 0
        self.fail_after: dict[str, int] = {}
        self.stopped = False
        self._trainings: dict[str, _Training] = {}
        self._doubted: set[tuple[str, int]] = set()
        self._reports: dict[Ack, BundleReport | FailureReport] = {}

    def info(self) -> HostInfo | None:
        self._check()
        if self.is_loading:
            return None
        base = self.settings.base.id
        return HostInfo(
            id=self.settings.id,
            base=base,
            base_sha256=self.base_sha256,
            device_type=self.settings.device,
            pid=1,
            memory_limit_bytes=1 << 30,
            base_bytes=0,
            activation_bytes=0,
            adapter_bytes=1 << 20,
            token_budget=64,
            numerics=self.numerics,
            node_id=self.node_id,
            node_ip="10.0.0.1",
        )

    def is_placed(self) -> bool:
        return not self.is_homeless

    def send(self, tick: Tick) -> None:
        self._check()
        for ack in tick.acks:
            self._reports.pop(ack, None)
        for release in tick.releases:
            held = self._trainings.get(release.job)
            if held and held.assignment.epoch == release.epoch:
                self._save(held)
                del self._trainings[release.job]
        for assignment in tick.assignments:
            held = self._trainings.get(assignment.spec.name)
            if held is None or held.assignment.epoch < assignment.epoch:
                self._begin(assignment)
        if tick.owned is not None:
            missing = {(n, h.assignment.epoch) for n, h in self._trainings.items()} - tick.owned
            for name, _ in missing & self._doubted:
                del self._trainings[name]
            self._doubted = missing

    def answer(self) -> HostReport | None:
        self._check()
        for name in list(self._trainings):
            self._train(self._trainings[name])
        return None if self.is_hung else self._report()

    def _begin(self, assignment: Assignment) -> None:
        name, epoch = assignment.spec.name, assignment.epoch
        try:
            step = int(read_bundle(assignment.bundle_uri)[0]["step"][0]) if assignment.bundle_uri else 0
        except StorageError as error:
            report = FailureReport(job=name, epoch=epoch, step=0, error=str(error), is_unread=True)
            self._reports[Ack(name, epoch, 0, True)] = report
            return
        self._trainings[name] = _Training(assignment, step, [])

    def release_state(self, job: str, epoch: int) -> MovedState:
        self._check()
        held = self._trainings.get(job)
        if held is None or held.assignment.epoch != epoch or self.is_hung:
            raise HostGone(f"{job} of epoch {epoch} is not here")
        del self._trainings[job]
        reports = [
            r for r in self._reports.values() if isinstance(r, BundleReport) and (r.job, r.epoch) == (job, epoch)
        ]
        steps = [s for r in sorted(reports, key=lambda r: r.step) for s in r.steps] + held.saved
        return MovedState(job, held.step, {}, 8 * held.step, tuple(steps), 0.0)

    def receive(self, assignment: Assignment, moved: MovedState) -> None:
        self._check()
        self._trainings[moved.job] = _Training(assignment, moved.step, list(moved.steps))
        self.arrivals.append(Arrival(moved.job, assignment.epoch, moved.step, 0.1))

    @property
    def jobs(self) -> set[str]:
        """What it trains now."""
        return set(self._trainings)

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        return CrossLosses(tuple(tuple(1.0 for _ in requests) for _ in requests), tuple(2.0 for _ in requests))

    def usage(self) -> HostUsage:
        return HostUsage(1.0, 1)

    def stop(self) -> None:
        self.stopped = True

    def join(self, timeout_s: float) -> None:
        assert self.stopped

    def _check(self) -> None:
        if self.is_dead:
            raise HostGone("its process died: killed by the test")

    def _train(self, held: _Training) -> None:
        spec, epoch = held.assignment.spec, held.assignment.epoch
        if held.step == self.fail_after.get(spec.name):
            report = FailureReport(job=spec.name, epoch=epoch, step=held.step, error="loss is nan")
            self._reports[Ack(spec.name, epoch, held.step, True)] = report
            del self._trainings[spec.name]
            return
        held.step += 1
        self.num_steps += 1
        held.saved.append(make_step(spec.name, held.step))
        if held.step >= spec.total_steps:
            self._save(held, is_final=True)
            del self._trainings[spec.name]
        elif spec.train.save_steps and held.step % spec.train.save_steps == 0:
            self._save(held)

    def _save(self, held: _Training, is_final: bool = False) -> None:
        if not held.saved:
            return
        name, epoch = held.assignment.spec.name, held.assignment.epoch
        uri = bundle_uri(self.settings.bundle_root, name, held.step, epoch)
        sha256 = write_bundle(uri, {"step": np.asarray([held.step])}, {"job": name})
        self._reports[Ack(name, epoch, held.step)] = BundleReport(
            job=name,
            epoch=epoch,
            step=held.step,
            bundle_uri=uri,
            sha256=sha256,
            steps=tuple(held.saved),
            is_final=is_final,
            weights_sha256=f"weights of {name}" if is_final else "",
        )
        held.saved = []

    def _report(self) -> HostReport:
        progress = tuple(
            Progress(
                job=name,
                epoch=held.assignment.epoch,
                step=held.step,
                total_steps=held.assignment.spec.total_steps,
                loss=1.0,
                num_tokens=8 * held.step,
                is_resident=True,
            )
            for name, held in self._trainings.items()
        )
        reports = self._reports.values()
        arrivals, self.arrivals = tuple(self.arrivals), []
        return HostReport(
            host=self.settings.id,
            base=self.settings.base.id,
            progress=progress,
            bundles=tuple(r for r in reports if isinstance(r, BundleReport)),
            failures=tuple(r for r in reports if isinstance(r, FailureReport)),
            tokens_per_s=100.0,
            arrivals=arrivals,
            num_steps=self.num_steps,
            memory_bytes=self.memory_bytes,
            memory_limit_bytes=1000,
            now_s=self.clock_s,
            stalled_s=self.stalled_s,
            row_tokens=self.row_tokens,
            row_why=self.row_why,
            rows=self.rows,
        )
