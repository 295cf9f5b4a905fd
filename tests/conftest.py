"""Shared by all tests: specs of small jobs, a virtual clock, and a host that trains in no time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve each other on two cores

import numpy as np
import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.hosts import HostGone
from mlora_ray.store.bundles import bundle_uri, read_bundle, write_bundle
from mlora_ray.types import (
    Ack,
    Assignment,
    BaseSpec,
    BundleReport,
    CrossLosses,
    CrossRequest,
    FailureReport,
    HostInfo,
    HostReport,
    HostSettings,
    HostUsage,
    JobSpec,
    LoraSpec,
    Progress,
    RowsRef,
    StepReport,
    Tick,
    TrainSpec,
)

BASE = BaseSpec(name="tiny-llama", path="/nowhere", dtype="float32")


def make_spec(name: str, *, steps: int = 10, save_steps: int = 3, base: BaseSpec = BASE) -> JobSpec:
    """A job whose rows exist in name only: 4 rows of 8 tokens, one row a step."""
    rows = RowsRef(
        uri="",
        sha256="0" * 64,
        source=f"{name}.jsonl",
        num_rows=4,
        num_tokens=32,
        num_target_tokens=16,
        num_truncated=0,
        max_row_tokens=8,
    )
    train = TrainSpec(max_steps=steps, save_steps=save_steps, batch_size=1)
    return JobSpec(name=name, base=base, lora=LoraSpec(r=4), train=train, train_rows=rows, total_steps=steps)


def make_step(job: str, step: int) -> StepReport:
    return StepReport(
        job=job,
        step=step,
        data_epoch=step / 4,
        loss=1.0 / step,
        learning_rate=0.1 / step,
        grad_norm=1.0,
        num_tokens=8,
        num_target_tokens=4,
        seconds=0.01,
    )


@dataclasses.dataclass(slots=True)
class _Training:
    assignment: Assignment
    step: int
    saved: list[StepReport]


class FakeHost:
    """The host protocol (`hosts.Line`) in this process: one training step for each job and tick.

    Bundles are real files. `fail_after` jobs fail at a step of their own; `is_dead` cuts the line.
    """

    def __init__(self, settings: HostSettings) -> None:
        self.settings = settings
        self.is_dead = self.is_loading = self.drops_answers = False
        self.fail_after: dict[str, int] = {}
        self.stopped = False
        self._trainings: dict[str, _Training] = {}
        self._reports: dict[Ack, BundleReport | FailureReport] = {}

    def info(self) -> HostInfo | None:
        self._check()
        if self.is_loading:
            return None
        base = self.settings.base.id
        sizes = {"memory_limit_bytes": 1 << 30, "base_bytes": 0, "activation_bytes": 0, "adapter_bytes": 1 << 20}
        return HostInfo(
            id=self.settings.id, base=base, base_sha256="b" * 64, device_type="cpu", pid=1, token_budget=64, **sizes
        )

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
                step = int(read_bundle(assignment.bundle_uri)[0]["step"][0]) if assignment.bundle_uri else 0
                self._trainings[assignment.spec.name] = _Training(assignment, step, [])

    def answer(self) -> HostReport:
        self._check()
        for name in list(self._trainings):
            self._train(self._trainings[name])
        if self.drops_answers:
            raise HostGone("no answer within 0 s")
        return self._report()

    def save_all(self) -> None:
        self._check()
        for held in self._trainings.values():
            self._save(held)

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        return CrossLosses(tuple(tuple(1.0 for _ in requests) for _ in requests), tuple(2.0 for _ in requests))

    def usage(self) -> HostUsage:
        return HostUsage(1.0, 1)

    def stop(self) -> None:
        self.stopped = True

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
        held.saved.append(make_step(spec.name, held.step))
        if held.step >= spec.total_steps:
            self._save(held, is_final=True)
            del self._trainings[spec.name]
        elif held.step % spec.train.save_steps == 0:
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
        return HostReport(
            host=self.settings.id,
            base=self.settings.base.id,
            progress=progress,
            bundles=tuple(r for r in reports if isinstance(r, BundleReport)),
            failures=tuple(r for r in reports if isinstance(r, FailureReport)),
            tokens_per_s=100.0,
        )


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(start_s=1000.0)


@pytest.fixture
def fake_launch(tmp_path: Path) -> tuple[Callable[[HostSettings], FakeHost], list[FakeHost]]:
    """A launch for `Hosts`, and the hosts that it has launched."""
    launched: list[FakeHost] = []

    def launch(settings: HostSettings) -> FakeHost:
        launched.append(FakeHost(settings))
        return launched[-1]

    return launch, launched


@pytest.fixture
def host_settings(tmp_path: Path) -> Callable[[str], HostSettings]:
    def make(name: str) -> HostSettings:
        return HostSettings(id=name, base=BASE, bundle_root=str(tmp_path / "bundles"), page_dir=str(tmp_path / "pages"))

    return make


def real_spec(folder: Path, name: str, *, eval_rows: bool = False, **train: object) -> JobSpec:
    """A job of 6 steps on the tiny base, its rows written into `folder`."""
    from mlora_ray.bases import resolve_base
    from mlora_ray.engine.rows import make_rows, rows_sha256, to_bytes

    rng = np.random.default_rng(sum(map(ord, name)))

    def write(num_rows: int) -> RowsRef:
        pairs = [(rng.integers(5, 300, n).tolist(), [True] * n) for n in rng.integers(3, 20, num_rows)]
        rows = make_rows(pairs)
        path = folder / f"{rows_sha256(rows)}.rows"
        path.write_bytes(to_bytes(rows))
        return RowsRef(
            uri=str(path),
            sha256=rows_sha256(rows),
            source=f"{name}.jsonl",
            num_rows=num_rows,
            num_tokens=len(rows.tokens),
            num_target_tokens=int(rows.num_targets().sum()),
            num_truncated=0,
            max_row_tokens=int(rows.lengths.max()),
        )

    settings = {"max_steps": 6, "batch_size": 2, "save_steps": 2, "learning_rate": 1e-2} | train
    spec = TrainSpec(**settings)  # type: ignore[arg-type]
    return JobSpec(
        name=name,
        base=resolve_base("tiny-llama", "float32"),
        lora=LoraSpec(r=4, lora_dropout=0.1),
        train=spec,
        train_rows=write(8),
        eval_rows=write(4) if eval_rows else None,
        total_steps=spec.max_steps,
    )
