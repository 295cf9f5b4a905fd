"""Hosts that come and go: what a crash loses, what a notice saves, what launching costs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.scaling import autoscale
from mlora_ray.simulate.elastic_simulation import FleetSettings, FleetSimulation, SpotSeries
from mlora_ray.simulate.results import FREE, Costs, SimHost
from mlora_ray.simulate.simulation import SimulationError
from mlora_ray.types import Action, AutoscaleSettings, ClusterView, HostType, LaunchHost
from tests.builders.jobs import BASE, STEPS, hosts, job

COSTS = Costs(place_s=0.0, pause_s=0.0, migrate_s=0.0, base_s=20.0, boot_s=100.0, bundle_steps=50)


def test_a_crash_loses_what_came_after_the_last_bundle_and_the_host_comes_back() -> None:
    """400 tokens a step of 50.5 ms: at 100 s 1,980 steps are done, 1,950 are in a bundle."""
    one = job("a", 0.0, 200.0)
    settings = FleetSettings(crashes=((100.0, "h000"),))
    outcome = FleetSimulation([one], hosts(1), STEPS, load_policy("srpt", STEPS), COSTS, settings).run()
    steps = 100.0 / 0.0505
    lost = steps - 50 * (steps // 50)
    assert outcome.num_crashes == 1
    assert outcome.jobs[0].lost_tokens == pytest.approx(lost * 400)
    assert outcome.jobs[0].finished_s == pytest.approx(200 + 120 + lost * 0.0505)


def test_a_wide_adapter_falls_back_as_a_whole_and_goes_on_with_the_hosts_that_are_left() -> None:
    one = job("a", 0.0, 200.0, width=2)
    settings = FleetSettings(crashes=((100.0, "h001"),), is_repaired=False)
    outcome = FleetSimulation([one], hosts(2), STEPS, load_policy("srpt", STEPS), COSTS, settings).run()
    assert 200 < outcome.jobs[0].finished_s - 100 < 210, "alone on one of two devices"


def test_a_notice_gives_time_to_leave_and_nothing_is_lost() -> None:
    spot = [SimHost(id="s", base=BASE, zone="z", is_spot=True, price_per_hour=1.0)]
    series = SpotSeries(zone="z", at_s=(0.0, 50.0), available=(1, 0))
    room = [*spot, SimHost(id="sure", base=BASE, price_per_hour=3.6)]
    jobs = [job("a", 0.0, 100.0, row_tokens=2000), job("b", 0.0, 100.0, row_tokens=2000)]
    settings = FleetSettings(spot=(series,), notice_s=30.0)
    outcome = FleetSimulation(jobs, room, STEPS, load_policy("srpt", STEPS), FREE, settings).run()
    assert outcome.num_preempted == 1
    assert sum(o.lost_tokens for o in outcome.jobs) == 0
    assert outcome.makespan_s == pytest.approx(150.0)
    assert outcome.cost == pytest.approx((80.0 * 1.0 + 150 * 3.6) / 3600), "the spot machine until it was gone"


def test_spot_machines_are_launched_only_where_there_are_any() -> None:
    kind = HostType(name="spot", is_spot=True, zone="z", price_per_hour=2.0, max_hosts=9)
    series = SpotSeries(zone="z", at_s=(0.0, 600.0), available=(0, 1))

    def launch(view: ClusterView) -> Sequence[Action]:
        return [LaunchHost(base=BASE, device_type="cpu", host_type="spot", is_spot=True, zone="z")]

    settings = FleetSettings(spot=(series,), host_types=(kind,))
    made = FleetSimulation([job("a", 0.0, 60.0)], [], STEPS, load_policy("srpt", STEPS), COSTS, settings, launch)
    assert made.run().jobs[0].finished_s == pytest.approx(600 + 120 + 60)


def test_an_autoscaler_that_launches_nothing_is_an_error_not_an_endless_run() -> None:
    nothing: list[Action] = []
    made = FleetSimulation([job("a", 0.0, 60.0)], [], STEPS, load_policy("srpt"), autoscaler=lambda view: nothing)
    with pytest.raises(SimulationError, match="launches nothing for 1 adapters"):
        made.run()


@pytest.mark.parametrize("name", ["srpt", "rate-remaining"])
def test_the_live_autoscaler_runs_a_cluster_from_nothing_and_back(name: str) -> None:
    """The policy that scales the live service, on a virtual clock: it launches for a burst and drains afterwards."""
    kind = HostType(name="gpu", device="cpu", price_per_hour=3.6, max_hosts=4)
    numbers = AutoscaleSettings(max_hosts=4, target_wait_s=300.0, jobs_per_host=2, down_delay_s=60.0)
    states = [autoscale.AutoscaleState()]

    def decide(view: ClusterView) -> Sequence[Action]:
        actions, state = autoscale.decide(view, numbers, states[-1])
        states.append(state)
        return actions

    jobs = [job(f"j{at}", 10.0 * at, 600.0, row_tokens=300.0) for at in range(8)] + [job("late", 20_000.0, 60.0)]
    settings = FleetSettings(host_types=(kind,))
    outcome = FleetSimulation(jobs, [], STEPS, load_policy(name, STEPS), COSTS, settings, decide).run()
    assert len(outcome.jobs) == 9
    assert 2 <= max(num for _, num in outcome.busy) <= 4
    assert outcome.host_s < 0.5 * 4 * outcome.makespan_s, "nobody pays for hosts in the quiet hours"
    assert outcome.cost == pytest.approx(outcome.host_s / 1000)
