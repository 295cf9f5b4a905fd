"""Hosts that join, die, drain and are refused."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
from sqlalchemy.orm import Session

from mlora_ray.errors import DatabaseError, InputError
from mlora_ray.types import JobState
from tests.fakes.service import Service, specs


def test_a_loading_host_gets_nothing_until_it_is_ready(service: Service) -> None:
    service.transport.prepare = lambda host: setattr(host, "is_loading", host.settings.id == "h-0")
    service.submit(specs(2))
    service.tick(4)
    assert {r.host for r in service.database.jobs()} == {"h-1"}
    assert [h.state for h in service.control.hosts()] == ["starting", "alive"]


def test_a_dead_hosts_jobs_go_on_elsewhere_from_their_last_bundle(service: Service) -> None:
    service.submit(specs(4))
    service.tick(6)
    service.launched[0].is_dead = True
    service.run()
    assert service.launched[0].stopped
    assert {h.settings.id for h in service.launched} == {"h-0", "h-1", "h-2"}
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()
    assert "gap" not in service.kinds()  # a bundle reported while its adapter leaves goes with the state


def test_a_base_that_differs_between_nodes_is_refused(service: Service) -> None:
    service.transport.prepare = lambda host: setattr(
        host, "base_sha256", "c" * 64 if host.settings.id == "h-1" else "b"
    )
    service.submit(specs(3))
    service.tick(4)
    refused = [e for e in service.database.events() if e.kind == "host_refused"]
    assert refused[0].host == "h-1"
    assert "c" * 64 in refused[0].detail
    service.run()
    assert {h.id for h in service.control.hosts()} == {"h-0"}


def test_a_drained_host_empties_and_ends_and_its_successor_comes(service: Service) -> None:
    service.submit(specs(4, steps=30))
    service.tick(5)
    assert service.control.drain("h-0") == ("h-0",)
    service.tick(5)
    assert service.launched[0].stopped
    assert {j.record.host for j in service.placement.jobs.open()} <= {"h-1", "h-2"}
    assert "requeued" not in service.kinds()
    service.run()
    service.check_integrity()
    with pytest.raises(InputError, match=r"one that is alive: h-1.*found h-0"):
        service.control.drain("h-0")


def test_a_database_that_is_away_strands_nobody(service: Service) -> None:
    """Whichever write of a host's loss fails first, and also where the placement actor dies just then."""
    service.submit(specs(6, steps=90))
    service.tick(5)
    for number in range(12):
        service.transport.living[0].is_dead = True
        database, writing, allowed = service.database, service.database._writing, [number // 2]

        def writing_for_a_while() -> AbstractContextManager[Session]:
            allowed[0] -= 1  # noqa: B023
            if allowed[0] < 0:  # noqa: B023
                raise DatabaseError("it is away")
            return writing()  # noqa: B023

        database._writing = writing_for_a_while  # type: ignore[assignment]
        service.clock.advance(1.0)
        service.control.patient_tick()
        database._writing = writing
        if number % 2:
            service.restart()
        service.tick(4)
        known = {h.name for h in service.placement.hosts.living()}
        assert service.placement.jobs.hosts() <= known
        assert known == {h.settings.id for h in service.transport.living}
    service.run()
    service.check_integrity()
