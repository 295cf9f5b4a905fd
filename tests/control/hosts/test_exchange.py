"""Hosts that are silent, that do not train, and whose clock is off."""

from __future__ import annotations

from mlora_ray.types import JobState
from tests.fakes.service import Service, specs


def test_a_silent_host_is_fenced_and_what_it_says_later_counts_for_nothing(service: Service) -> None:
    service.submit(specs(2, steps=60))
    service.tick(4)
    lost = service.launched[0]
    lost.is_hung = True
    service.tick(9)
    assert service.placement.hosts.is_living(lost.settings.id)
    steps = service.job("job-1").record.step
    service.tick(4)
    assert lost.stopped
    assert service.job("job-1").record.step > steps  # the others went on meanwhile
    lost.is_hung = False
    late = lost.answer()
    assert late is not None
    assert late.bundles
    before = [(r.step, r.epoch) for r in service.database.jobs()]
    service.placement.reports.absorb([("h-0", late)])
    assert [(r.step, r.epoch) for r in service.database.jobs()] == before
    service.run()
    service.check_integrity()


def test_a_host_that_answers_and_does_not_train_is_fenced(service: Service) -> None:
    service.submit(specs(2, steps=20))
    service.tick(4)
    stuck = service.launched[0]
    stuck.stalled_s = service.settings.stall_timeout_s
    service.tick(2)
    assert not stuck.stopped
    stuck.stalled_s += 1.0
    service.run()
    assert stuck.stopped
    assert "no step ended for 1801 s" in next(e.detail for e in service.database.events() if e.kind == "host_lost")
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()


def test_a_skewed_clock_is_told_once_and_changes_nothing(service: Service) -> None:
    service.transport.prepare = lambda host: setattr(host, "clock_s", 90_000.0)
    service.submit(specs(2))
    service.run()
    told = [e for e in service.database.events() if e.kind == "clock_skew"]
    assert sorted(e.host for e in told) == ["h-0", "h-1"]
    assert "+8" in told[0].detail
    service.check_integrity()
