"""Hosts that are taken over, replaced, launched for a base."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mlora_ray.clock import VirtualClock
from mlora_ray.types import HostType
from tests.conftest import BASE, make_spec
from tests.fakes.service import Service, specs


def test_a_placement_that_is_restarted_takes_its_hosts_over(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    service.restart()
    service.tick(3)
    assert len(service.launched) == 2
    assert {r.epoch for r in service.database.jobs()} == {1}
    service.run()
    service.check_integrity()
    assert "host_lost" not in service.kinds()


def test_a_host_that_died_while_there_was_no_placement_is_replaced(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    service.launched[0].is_dead = True
    service.restart()
    service.run()
    assert [h.state for h in service.control.hosts(is_gone_included=True)].count("gone") == 1
    service.check_integrity()


def test_two_bases_get_hosts_of_their_own(tmp_path: Path, clock: VirtualClock) -> None:
    other = dataclasses.replace(BASE, name="other")
    service = Service(tmp_path, clock, host_types=(HostType(name="h", max_hosts=4),))
    service.submit([make_spec("a", base=BASE), make_spec("b", base=other), make_spec("c", base=other)])
    service.run()
    assert {h.settings.base.name for h in service.launched} == {"tiny-llama", "other"}
    assert len(service.launched) <= 2
    service.check_integrity()
