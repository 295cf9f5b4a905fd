"""Who changes hosts live, and where a drain brings jobs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mlora_ray.clock import VirtualClock
from mlora_ray.types import HostType, JobState
from tests.conftest import make_spec
from tests.fakes.scripted import move
from tests.fakes.service import Service, specs


def test_a_move_brings_the_newest_step_and_a_bundle_is_not_needed(scripted: Service) -> None:
    scripted.submit(specs(2, save_steps=0))
    scripted.tick(5)
    source, target = move(scripted, "job-0")
    scripted.tick(3)
    job = scripted.job("job-0")
    assert (job.record.host, job.record.state, job.record.step) == (target, JobState.TRAINING, 0)
    assert job.progress is not None
    assert job.progress.step >= 4
    assert scripted.kinds("job-0")[-2:] == ["moving", "migrated"]
    held = {h.settings.id: h.jobs for h in scripted.transport.living}
    assert "job-0" in held[target]
    assert "job-0" not in held[source]
    scripted.run()
    scripted.check_integrity()


def test_a_drain_brings_nobody_to_a_device_it_did_not_ask_for(tmp_path: Path, clock: VirtualClock) -> None:
    types = (HostType(name="gpu", device="cuda", num_gpus=1.0), HostType(name="cpu"))
    service = Service(tmp_path, clock, host_types=types)
    service.submit([dataclasses.replace(make_spec("a", steps=30), device_type="cuda")])
    service.tick(4)
    assert service.job("a").record.host == "gpu-0"
    service.control.drain("gpu-0")
    for _ in range(20):
        service.tick()
        assert not service.job("a").record.host.startswith("cpu")
