"""Step times are learned of what hosts report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.control.jobs.step_time_learner import StepLearner
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import StepTimeModel, StepTimes
from mlora_ray.policies.models.step_time_fit import added, row_stats
from mlora_ray.store.decision_log import read_decisions
from tests.conftest import BASE
from tests.fakes.host import FakeHost
from tests.fakes.service import Service, specs


def run_rows(host: FakeHost, num_rows: int, factor: float = 1.0) -> None:
    """Rows of 700 to 1,300 tokens: 50 ms and 1 ms a token, 10 ms an adapter."""
    for at in range(num_rows):
        tokens, steps = 700 + 100 * (at % 7), 1 + at % 4
        seconds = factor * (0.05 + 1e-3 * tokens + 0.01 * steps)
        host.rows = added(host.rows, row_stats(tokens, steps, 8 * tokens, seconds))


def test_step_times_are_learned_from_what_hosts_report_and_a_slow_host_shows(service: Service) -> None:
    service.submit(specs(2, steps=200))
    service.tick(2)
    assert service.placement.view().step_times == ()
    for _ in range(8):
        for host in service.launched:
            run_rows(host, 10)
        service.tick()
    (learned,) = service.placement.view().step_times
    assert (learned.base, learned.device_type, learned.token_budget) == (BASE.id, "cpu", 1536)
    assert learned.start_s + 1000 * learned.token_s + 2 * learned.adapter_s == pytest.approx(1.07, rel=0.02)
    assert [h.step_time_drift for h in service.control.hosts()] == pytest.approx([1.0, 1.0], abs=0.02)
    run_rows(service.launched[1], 200, factor=1.5)
    service.tick()
    assert [h.step_time_drift for h in service.control.hosts()] == pytest.approx([1.0, 1.4], abs=0.1)
    service.restart()
    service.tick(2)
    (again,) = service.placement.view().step_times
    assert again.num_rows == 360, "hosts tell their sums since they started"


def test_decisions_of_a_policy_that_knows_step_times_replay(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock, policy="rate-remaining")
    service.submit(specs(6, steps=12))
    service.tick(2)
    while not service.placement.is_done():
        for host in service.launched:
            run_rows(host, 20)
        service.tick()
        if len(service.states()) < 12:
            service.submit(specs(12, steps=12)[len(service.states()) :][:1])
    decisions = read_decisions(service.settings.decisions_uri)
    assert any(d.view.step_times for d in decisions)
    assert sum(len(d.actions) for d in decisions) >= 12
    for one in decisions:
        assert load_policy("rate-remaining").decide(one.view, one.state)[0] == one.actions


def test_profiles_are_what_hosts_are_compared_with(service: Service) -> None:
    profile = StepTimeModel(
        id="half", base=BASE.id, device_type="cpu", layer_points=((100.0, 0.05), (1000.0, 0.5)), token_budget=4096
    )
    service.submit(specs(1))
    service.tick(2)
    learner, host = StepLearner(StepTimes([profile])), service.placement.hosts["h-0"]
    run_rows(service.launched[0], 40)
    learner.take(host, dataclasses.replace(host.report, rows=service.launched[0].rows))
    assert host.timing.drift == pytest.approx(2.1, abs=0.1)
    assert learner.known()[0].drift == host.timing.drift
