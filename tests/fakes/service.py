"""A placement service over hosts of this process, ticked by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from mlora_ray.clock import VirtualClock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.jobs.placement import Placement
from mlora_ray.control.jobs.state import JobEntry
from mlora_ray.control.metrics import Metrics
from mlora_ray.control.service import PlacementService
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import (
    AutoscaleSettings,
    HostType,
    JobSpec,
    JobState,
)
from mlora_ray.types.service import SubmitRequest
from tests.conftest import make_spec, make_step
from tests.fakes.host import FakeHost
from tests.fakes.transport import FakeTransport


class Service:
    """A control with two fake hosts, ticked by hand; `restart` is what Ray does to a placement actor that died."""

    def __init__(self, folder: Path, clock: VirtualClock, *, num_hosts: int = 2, **settings: object) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.clock = folder, clock
        self.transport = FakeTransport()
        self.settings = dataclasses.replace(
            ServiceSettings(
                storage=str(folder / "out"),
                database_url=f"sqlite:///{folder}/control.db",
                host_types=(HostType(name="h", max_hosts=num_hosts),),
                autoscale=AutoscaleSettings(min_hosts=num_hosts, max_hosts=num_hosts),
            ),
            **settings,  # type: ignore[arg-type]
        )
        self.control = self._open()

    def _open(self) -> PlacementService:
        metrics = Metrics("test", lambda spec, service: lambda value, tags: None)
        return PlacementService(self.settings, self.transport, self.clock, "test", metrics)

    @property
    def placement(self) -> Placement:
        return self.control.placement

    @property
    def database(self) -> ControlDatabase:
        return self.placement._db

    @property
    def launched(self) -> list[FakeHost]:
        return self.transport.launched

    def restart(self) -> None:
        self.database.close()
        self.control = self._open()

    def submit(self, specs: Sequence[JobSpec], sizes: Sequence[tuple[str, int]] = ()) -> None:
        self.control.submit(SubmitRequest(specs=tuple(specs), state_bytes=tuple(sizes)))

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(1.0)
            self.control.tick()
            self.placement.jobs.check_integrity()

    def run(self, max_ticks: int = 300) -> None:
        for _ in range(max_ticks):
            if self.placement.is_done():
                return
            self.tick()
        raise AssertionError(f"not done after {max_ticks} ticks: {self.control.status()}")

    def job(self, name: str) -> JobEntry:
        return self.placement.jobs[name]

    def states(self) -> dict[str, JobState]:
        return {r.spec.name: r.state for r in self.database.jobs()}

    def kinds(self, job: str = "") -> list[str]:
        return [e.kind for e in self.database.events(job=job)]

    def check_integrity(self) -> None:
        """Committed steps of each job are 1..n without a gap, and metrics.jsonl says the same."""
        self.database.check_integrity()
        for record in self.database.jobs():
            name = record.spec.name
            steps = [s for s, _ in self.database.steps(name)]
            assert steps == [make_step(name, i) for i in range(1, record.step + 1)]
            path = self.folder / "out" / name / "metrics.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            assert [json.loads(line)["step"] for line in lines] == [s.step for s in steps]
            assert record.bundle_uri == "" or Path(record.bundle_uri).exists()


def specs(count: int, **values: int) -> list[JobSpec]:
    return [make_spec(f"job-{i}", **values) for i in range(count)]
