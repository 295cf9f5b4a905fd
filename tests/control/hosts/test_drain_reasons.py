"""Why everybody has to leave a host: its node, its memory, its steps, or that it drained before."""

from __future__ import annotations

from pathlib import Path

from mlora_ray.clock import VirtualClock
from tests.fakes.service import Service, specs


def test_a_host_goes_on_draining_when_placement_begins_again(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    service.control.drain("h-0")
    service.restart()
    service.tick(6)
    assert service.launched[0].stopped
    assert {j.record.host for j in service.placement.jobs.open()} <= {"h-1", "h-2"}
    service.run()
    service.check_integrity()


def test_a_leaving_node_is_emptied_and_asked_for_no_more(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    service.transport.leaving["node-of-h-1"] = service.clock.now_s() + 30
    service.tick()
    assert "h-1" not in service.transport.requested
    leaving = next(h for h in service.placement.view().hosts if h.id == "h-1")
    assert (leaving.state, leaving.leaves_at_s) == ("draining", service.transport.leaving["node-of-h-1"])
    service.tick(5)
    assert service.launched[1].stopped
    service.run()
    service.check_integrity()


def test_the_last_host_that_drains_saves_and_queues(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock, num_hosts=1, host_max_steps=30)
    service.submit(specs(3, steps=30, save_steps=0))
    service.run()
    assert [h.settings.id for h in service.launched] == ["h-0", "h-1", "h-2", "h-3"][: len(service.launched)]
    assert len(service.launched) > 2
    assert any("recycled after" in e.detail for e in service.database.events())
    service.check_integrity()


def test_hosts_are_recycled_one_after_the_other(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock, num_hosts=2, host_max_steps=40)
    service.submit(specs(4, steps=80, save_steps=10))
    while not service.placement.is_done():
        service.tick()
        assert sum(h.is_draining for h in service.placement.hosts) <= 1
    assert len([e for e in service.database.events() if "recycled after" in e.detail]) >= 4
    service.check_integrity()


def test_a_leaking_host_is_recycled(service: Service) -> None:
    service.submit(specs(4, steps=150, save_steps=10))
    service.tick(4)
    service.launched[0].memory_bytes = 990
    service.tick(30)
    assert not service.launched[0].stopped
    service.tick(40)
    assert service.launched[0].stopped
    assert "recycled: its memory grows, 990 of 1000 bytes" in next(
        e.detail for e in service.database.events() if e.kind == "host_drains"
    )
    service.run()
    service.check_integrity()
