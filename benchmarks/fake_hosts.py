"""Hosts of the placement protocol in this process: they count steps and leave small bundle files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlora_ray.control.transport import HostGone
from mlora_ray.store.bundles import bundle_uri
from mlora_ray.types import (
    Ack,
    Assignment,
    BaseSpec,
    BundleReport,
    CrossLosses,
    CrossRequest,
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

STEP_TOKENS = 64
TOTAL_STEPS = 1_000_000  # nobody ends
BASE = BaseSpec(name="fake", path="/nowhere")


def make_specs(number: int, save_steps: int) -> list[JobSpec]:
    """Jobs that differ in rank and tenant, with rows in name only."""
    rows = RowsRef(
        uri="",
        sha256="0" * 64,
        source="fake.jsonl",
        num_rows=10,
        num_tokens=640,
        num_target_tokens=320,
        num_truncated=0,
        max_row_tokens=STEP_TOKENS,
    )
    train = TrainSpec(max_steps=TOTAL_STEPS, save_steps=save_steps, batch_size=1)
    return [
        JobSpec(
            name=f"job-{i:04d}",
            base=BASE,
            lora=LoraSpec(r=(4, 8, 16, 32)[i % 4]),
            train=train,
            train_rows=rows,
            total_steps=TOTAL_STEPS,
            tenant=f"tenant-{i % 20}",
        )
        for i in range(number)
    ]


@dataclass(slots=True)
class _Training:
    assignment: Assignment
    step: int
    steps: list[StepReport] = field(default_factory=list)


class FakeHost:
    """A line to a host that is always at hand. Jobs begin at different distances from their first bundle."""

    def __init__(self, settings: HostSettings) -> None:
        self.settings = settings
        self.is_dead = False
        self.num_steps = self.num_saved = 0
        self._jobs: dict[str, _Training] = {}
        self._reports: dict[Ack, BundleReport] = {}

    @property
    def jobs(self) -> set[str]:
        return set(self._jobs)

    def info(self) -> HostInfo | None:
        self._check()
        return HostInfo(
            id=self.settings.id,
            base=self.settings.base.id,
            base_sha256="0" * 64,
            device_type=self.settings.device,
            pid=1,
            token_budget=4096,
            numerics="fake",
            node_id=f"node-of-{self.settings.id}",
            node_ip="10.0.0.1",
            memory_limit_bytes=1 << 34,
            base_bytes=0,
            activation_bytes=0,
            adapter_bytes=1 << 33,
        )

    def is_placed(self) -> bool:
        return True

    def send(self, tick: Tick) -> None:
        self._check()
        for ack in tick.acks:
            self._reports.pop(ack, None)
        for release in tick.releases:
            if self._jobs.get(release.job):
                self._save(self._jobs.pop(release.job))
        for assignment in tick.assignments:
            held = self._jobs.get(assignment.spec.name)
            if held is None or held.assignment.epoch < assignment.epoch:
                self._jobs[assignment.spec.name] = _Training(assignment, _step_of(assignment.bundle_uri))
        if tick.owned is not None:
            owned = {(name, held.assignment.epoch) for name, held in self._jobs.items()} & tick.owned
            self._jobs = {name: self._jobs[name] for name, _ in owned}

    def train(self) -> None:
        """One step of each job."""
        for held in self._jobs.values():
            held.step += 1
            self.num_steps += 1
            held.steps.append(_step(held.assignment.spec.name, held.step))
            save_steps = held.assignment.spec.train.save_steps
            if (held.step + int(held.assignment.spec.name[-4:])) % save_steps == 0:
                self._save(held)

    def answer(self) -> HostReport | None:
        self._check()
        progress = tuple(_progress(held) for held in self._jobs.values())
        return HostReport(
            host=self.settings.id,
            base=self.settings.base.id,
            progress=progress,
            bundles=tuple(self._reports.values()),
            tokens_per_s=1000.0,
            step_s=0.1,
            memory_bytes=1 << 30,
            memory_limit_bytes=1 << 34,
            num_steps=self.num_steps,
        )

    def drop(self, job: str) -> _Training:
        """For a move, with every step that is not acknowledged. Raises HostGone when it is not here."""
        if self.is_dead or job not in self._jobs:
            raise HostGone(f"{job} is not on {self.settings.id}")
        held = self._jobs.pop(job)
        mine = [r for ack, r in self._reports.items() if (ack.job, ack.epoch) == (job, held.assignment.epoch)]
        held.steps = [*(step for r in sorted(mine, key=lambda r: r.step) for step in r.steps), *held.steps]
        return held

    def take(self, assignment: Assignment, held: _Training) -> None:
        self._jobs[assignment.spec.name] = _Training(assignment, held.step, held.steps)

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
        raise HostGone("a fake evaluates nothing")

    def usage(self) -> HostUsage:
        return HostUsage(0.0, 0)

    def stop(self) -> None:
        self.is_dead = True

    def join(self, timeout_s: float) -> None:
        return

    def _check(self) -> None:
        if self.is_dead:
            raise HostGone("its process died")

    def _save(self, held: _Training) -> None:
        if not held.steps:
            return
        name, epoch = held.assignment.spec.name, held.assignment.epoch
        uri = bundle_uri(self.settings.bundle_root, name, held.step, epoch)
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        Path(uri).write_bytes(b"a bundle in name only")
        self._reports[Ack(name, epoch, held.step)] = BundleReport(
            job=name, epoch=epoch, step=held.step, bundle_uri=uri, sha256="0" * 64, steps=tuple(held.steps)
        )
        held.steps = []
        self.num_saved += 1


class _Move:
    """A state that has arrived at once."""

    def __init__(self, why: str) -> None:
        self._why = why

    def outcome(self) -> str | None:
        return self._why


class FakeTransport:
    """Hosts in this process; they outlive the placement."""

    def __init__(self) -> None:
        self._hosts: dict[str, FakeHost] = {}

    @property
    def living(self) -> list[FakeHost]:
        return [h for h in self._hosts.values() if not h.is_dead]

    @property
    def num_commits(self) -> int:
        return sum(h.num_saved for h in self._hosts.values())

    def train(self) -> None:
        for host in self.living:
            host.train()

    def launch(self, settings: HostSettings) -> FakeHost:
        host = self._hosts[settings.actor_name] = FakeHost(settings)
        return host

    def adopt(self, actor_name: str) -> FakeHost:
        return self._hosts[actor_name]

    def wait(self, lines: Sequence[FakeHost], timeout_s: float) -> None:
        return

    def move(self, source: FakeHost, target: FakeHost, assignment: Assignment, old_epoch: int) -> _Move:
        try:
            target.take(assignment, source.drop(assignment.spec.name))
        except HostGone as error:
            return _Move(str(error))
        return _Move("")

    def draining(self) -> Mapping[str, float]:
        return {}

    def request(self, wanted: Sequence[HostSettings]) -> None:
        return


def _step_of(uri: str) -> int:
    """Of a bundle's name."""
    return int(uri.rpartition("/step-")[2][:8]) if uri else 0


def _step(job: str, step: int) -> StepReport:
    return StepReport(
        job=job,
        step=step,
        data_epoch=step / 10,
        loss=1.0 / step,
        learning_rate=1e-3,
        grad_norm=1.0,
        num_tokens=STEP_TOKENS,
        num_target_tokens=STEP_TOKENS // 2,
        seconds=0.1,
    )


def _progress(held: _Training) -> Progress:
    return Progress(
        job=held.assignment.spec.name,
        epoch=held.assignment.epoch,
        step=held.step,
        total_steps=held.assignment.spec.total_steps,
        loss=1.0,
        num_tokens=held.step * STEP_TOKENS,
        is_resident=True,
        tokens_per_s=25.0,
    )
