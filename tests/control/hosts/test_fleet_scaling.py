"""A service that scales, on a virtual clock over hosts that train in no time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mlora_ray.clock import VirtualClock
from mlora_ray.types import AutoscaleSettings, HostType, JobState
from tests.conftest import make_spec
from tests.fakes.host import FakeHost
from tests.fakes.service import Service, specs

SPOT = HostType(name="spot", is_spot=True, max_hosts=4)
STEADY = HostType(name="steady", max_hosts=4)
SCALE = AutoscaleSettings(max_hosts=4, jobs_per_host=2, down_delay_s=5.0, spot_share=1.0)


def service_of(folder: Path, clock: VirtualClock, **scale: object) -> Service:
    autoscale = dataclasses.replace(SCALE, **scale)  # type: ignore[arg-type]
    return Service(folder, clock, host_types=(SPOT, STEADY), autoscale=autoscale, policy="rebalance")


def test_hosts_come_for_jobs_and_all_go_after_them(tmp_path: Path, clock: VirtualClock) -> None:
    service = service_of(tmp_path, clock)
    service.tick(5)
    assert service.launched == []
    service.submit(specs(8))
    service.tick(2)
    assert [h.settings.host_type for h in service.launched] == ["spot"] * 4
    service.run()
    service.tick(10)
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    assert all(h.stopped for h in service.launched)
    assert service.control.hosts() == ()
    service.check_integrity()


def test_a_host_that_does_not_start_is_called_off_and_another_type_tried(tmp_path: Path, clock: VirtualClock) -> None:
    service = service_of(tmp_path, clock, start_patience_s=20.0)

    def prepare(host: FakeHost) -> None:
        host.is_loading = host.settings.host_type == "spot"

    service.transport.prepare = prepare
    service.submit(specs(2))
    service.run()
    assert [(h.settings.host_type, h.stopped) for h in service.launched][:2] == [("spot", True), ("steady", False)]
    called_off = next(h for h in service.database.hosts(is_gone_included=True) if h.settings.host_type == "spot")
    assert (called_off.state, called_off.why) == ("gone", "called off before it had started")


def test_a_start_that_nobody_needs_any_more_is_called_off(tmp_path: Path, clock: VirtualClock) -> None:
    service = service_of(tmp_path, clock)
    service.transport.prepare = lambda host: setattr(host, "is_loading", True)
    service.submit(specs(2))
    service.tick(2)
    service.control.cancel(("job-0", "job-1"))
    service.tick(10)
    assert [h.stopped for h in service.launched] == [True]
    assert service.control.hosts() == ()


def test_after_a_restart_begun_jobs_still_get_hosts_that_compute_their_bits(
    tmp_path: Path, clock: VirtualClock
) -> None:
    """All hosts are gone, the placement actor with them; spot would come first, but computes other bits."""
    service = service_of(tmp_path, clock, spot_share=0.0)
    service.transport.prepare = lambda host: setattr(host, "numerics", f"bits of {host.settings.host_type}")
    service.submit([make_spec("job", steps=60, save_steps=5)])
    service.tick(12)
    assert [h.settings.host_type for h in service.launched] == ["steady"]
    service.launched[0].is_dead = True
    service.settings = dataclasses.replace(service.settings, autoscale=SCALE)  # spot first from now on
    service.restart()
    service.run()
    assert [h.settings.host_type for h in service.launched] == ["steady", "steady"]
    assert service.states() == {"job": JobState.SUCCEEDED}
    service.check_integrity()
