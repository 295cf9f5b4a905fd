"""Hosts that only die."""

from __future__ import annotations

from pathlib import Path

from mlora_ray.clock import VirtualClock
from mlora_ray.types import JobState
from tests.fakes.service import Service, specs


def test_hosts_that_only_die_end_a_run_and_make_a_service_wait(tmp_path: Path, clock: VirtualClock) -> None:
    for ends in (True, False):
        service = Service(tmp_path / str(ends), clock, num_hosts=1, ends_on_trouble=ends)
        service.transport.prepare = lambda host: setattr(host, "is_dead", True)
        service.submit(specs(1))
        service.tick(6)
        status = service.control.status()
        assert len(service.launched) == 3
        assert ("3 hosts were lost with nothing trained" in status.error) is ends
        assert (status.phase == "done") is ends
        assert any("no host of" in w for w in status.warnings)
    service.transport.prepare = lambda host: None
    service.run()
    assert service.states() == {"job-0": JobState.SUCCEEDED}
