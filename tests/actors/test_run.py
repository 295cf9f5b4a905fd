"""A run on real actors with the tiny base: it ends, it saves, and a killed host changes no bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from mlora_ray.actors.options import start_placement
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import CrossRequest, HostType, JobSpec, JobState
from mlora_ray.types.service import RunResult, SubmitRequest
from mlora_ray.types.status import RunStatus
from tests.conftest import real_spec

CALL_S = 60.0
DEADLINE_S = 120.0

pytestmark = pytest.mark.usefixtures("local_ray")


class Run:
    """One placement actor over one directory."""

    def __init__(self, folder: Path, specs: list[JobSpec]) -> None:
        self.folder = folder
        self.database_url = f"sqlite:///{folder}/control.db"
        settings = ServiceSettings(
            name=f"{folder.name}-{time.time_ns()}",
            storage=str(folder / "out"),
            database_url=self.database_url,
            host_types=(HostType(name="cpu", memory_limit_bytes=4 << 30),),
            page_root=str(folder / "pages"),
            tick_s=0.05,
            ends_on_trouble=True,
        )
        self.placement = start_placement(settings)
        self.call("submit", SubmitRequest(specs=tuple(specs)))

    def call(self, method: str, *args: Any) -> Any:
        return ray.get(getattr(self.placement, method).remote(*args), timeout=CALL_S)

    def wait(self, condition: Callable[[RunStatus], bool]) -> RunStatus:
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            status: RunStatus = self.call("status")
            if condition(status):
                return status
            if status.phase == "done":
                break
            time.sleep(0.05)
        raise AssertionError(f"it did not come to that: {status}")

    def end(self) -> None:
        self.call("stop", 30.0)
        ray.kill(self.placement, no_restart=True)

    def hashes(self) -> dict[str, str]:
        database = ControlDatabase(self.database_url)
        records = database.jobs()
        assert {r.state for r in records} == {JobState.SUCCEEDED}
        for record in records:
            steps = [s.step for s, _ in database.steps(record.spec.name)]
            assert steps == list(range(1, record.spec.total_steps + 1))
        database.close()
        return {r.spec.name: r.weights_sha256 for r in records}


def make_jobs(folder: Path) -> list[JobSpec]:
    return [real_spec(folder, name, eval_rows=True, max_steps=60, save_steps=10) for name in ("a", "b", "c")]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> dict[str, str]:
    """Hashes of an undisturbed run, which is also looked at on its way."""
    folder = tmp_path_factory.mktemp("quiet")
    run = Run(folder, make_jobs(folder))
    run.wait(lambda s: s.phase == "done")
    result: RunResult = run.call("result")
    assert [r.state for r in result.records] == [JobState.SUCCEEDED] * 3
    assert result.usage.cpu_s > 0
    assert result.usage.peak_bytes > 50_000_000
    assert "memory limit 4.0 GiB" in result.hosts[0].summary
    losses = run.call("cross_evaluate", [CrossRequest(r.spec, r.bundle_uri) for r in result.records], 4)
    assert len(losses.loss) == len(losses.loss[0]) == len(losses.base_loss) == 3
    run.end()
    return run.hashes()


def test_a_killed_host_changes_no_bit(tmp_path: Path, quiet: dict[str, str]) -> None:
    run = Run(tmp_path, make_jobs(tmp_path))
    run.wait(lambda s: all(j.step >= 12 for j in s.jobs))
    os.kill(run.call("hosts")[0].pid, signal.SIGKILL)
    status = run.wait(lambda s: s.phase == "done")
    assert [h.id for h in run.call("hosts")] == ["cpu-1"]
    run.end()
    assert status.error == ""
    assert run.hashes() == quiet


def test_saved_and_stopped_then_resumed_is_the_same(tmp_path: Path, quiet: dict[str, str]) -> None:
    jobs = make_jobs(tmp_path)
    run = Run(tmp_path, jobs)
    run.wait(lambda s: all(j.step >= 3 for j in s.jobs))
    status: RunStatus = run.call("save_and_pause")
    assert {j.state for j in status.jobs} == {JobState.PAUSED}
    assert all(j.step >= 3 for j in status.jobs)
    run.end()
    again = Run(tmp_path, jobs)
    again.wait(lambda s: s.phase == "done")
    again.end()
    assert again.hashes() == quiet


def test_a_base_that_cannot_be_loaded_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    import dataclasses

    spec = real_spec(tmp_path, "a")
    nowhere = str(tmp_path / "no-such-base")
    spec = dataclasses.replace(spec, base=dataclasses.replace(spec.base, name=nowhere, path=nowhere))
    run = Run(tmp_path, [spec])
    status = run.wait(lambda s: s.phase == "done")
    run.end()
    assert "no-such-base" in status.error
