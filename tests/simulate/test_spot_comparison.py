"""Ways to have hosts on made-up spot series: ours keeps what Uniform Progress keeps, for less; no token gets lost."""

from __future__ import annotations

import dataclasses
import random
from functools import cache

import pytest

from mlora_ray.simulate.elastic_simulation import SpotSeries
from mlora_ray.simulate.results import Outcome
from mlora_ray.simulate.spot_comparison import CONTENDERS, ElasticSettings, Start, draw_start, run_start
from mlora_ray.simulate.traces import TraceRow, filter_rows, read_trace
from mlora_ray.simulate.workload import WorkloadSettings
from tests.builders.jobs import BASE, STEPS

NUM_STARTS = 20
# From 20 minutes on there is time to start a machine once a job is seen, and still meet any deadline.
WORKLOAD = WorkloadSettings(num_jobs=8, num_hosts=4, load=0.6, bases=(BASE,), has_deadlines=True)
SETTINGS = ElasticSettings(workload=WORKLOAD, num_zones=2)
ABRUPT = dataclasses.replace(SETTINGS, notice_s=0.0, depth=4)


@cache
def rows() -> tuple[TraceRow, ...]:
    return tuple(filter_rows(read_trace("synthetic:philly"), min_s=1200.0, max_s=8 * 3600.0, max_devices=1).rows)


@cache
def made_series() -> tuple[SpotSeries, ...]:
    """Zones between hardly any spot machines and nearly always some, in spells of minutes to hours."""
    random_ = random.Random("series")
    made = []
    for zone in range(8):
        at_s, available = [0.0], [random_.randrange(3)]
        while at_s[-1] < 20 * 86400:
            at_s.append(at_s[-1] + random_.lognormvariate(7.5, 1.2))
            available.append(max(0, random_.randrange(-2, zone)))
        made.append(SpotSeries(zone=f"made/{zone}", at_s=tuple(at_s), available=tuple(available)))
    return tuple(made)


def start(seed: int, settings: ElasticSettings = SETTINGS) -> Start:
    return draw_start(rows(), made_series(), settings, STEPS, seed)


@cache
def outcome(name: str, seed: int) -> Outcome:
    return run_start(name, start(seed), SETTINGS, STEPS)


def late(found: Outcome) -> set[str]:
    return {o.job.id for o in found.jobs if o.job.deadline_s is not None and o.finished_s > o.job.deadline_s}


def test_a_start_is_the_same_for_everybody_and_another_with_another_seed() -> None:
    assert start(3) == start(3)
    assert start(3).series != start(4).series or start(3).start_s != start(4).start_s
    assert {t.name for t in start(3).fleet.host_types} == {"sure", "spot-0", "spot-1"}
    assert 30 <= start(3).fleet.notice_s <= 120


def test_ours_meets_every_deadline_that_uniform_progress_meets_at_no_more_cost() -> None:
    missed = {
        seed: late(outcome("on-time", seed)) - late(outcome("uniform-progress", seed)) for seed in range(NUM_STARTS)
    }
    assert {seed: held for seed, held in missed.items() if held} == {}
    costs = [[outcome(name, seed).cost for seed in range(NUM_STARTS)] for name in ("on-time", "uniform-progress")]
    assert sum(costs[0]) < 0.9 * sum(costs[1])
    assert sum(ours > rival for ours, rival in zip(*costs, strict=True)) <= 1


def test_uniform_progress_itself_is_in_time_and_cheaper_than_on_demand() -> None:
    assert [late(outcome("uniform-progress", seed)) for seed in range(NUM_STARTS)] == [set()] * NUM_STARTS
    cost = sum(outcome("uniform-progress", seed).cost for seed in range(NUM_STARTS))
    tokens_s = sum(j.duration_s for seed in range(NUM_STARTS) for j in start(seed).jobs)
    assert cost < tokens_s / 3600 * SETTINGS.sure_price
    assert cost > tokens_s / 3600 * SETTINGS.spot_price


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("settings", [SETTINGS, ABRUPT], ids=["notice", "abrupt"])
def test_tokens_are_conserved(name: str, settings: ElasticSettings) -> None:
    """What the devices did is what the jobs are, and what was lost. Sharing does it in less device time."""
    made = start(2, settings)
    found = run_start(name, made, settings, STEPS)
    assert sorted(o.job.id for o in found.jobs) == sorted(j.id for j in made.jobs)
    alone_s = sum((o.job.tokens + o.lost_tokens) / o.job.solo_tokens_s for o in found.jobs)
    if name == "uniform-progress":
        assert found.busy_s == pytest.approx(alone_s)
    else:
        assert found.busy_s <= alone_s * (1 + 1e-9)
    most = max(STEPS.default.best_tokens_s, *(j.solo_tokens_s for j in made.jobs))
    assert found.tokens + sum(o.lost_tokens for o in found.jobs) <= found.busy_s * most * (1 + 1e-9)


def test_with_a_notice_nothing_is_lost_and_without_one_something_is() -> None:
    lost = {}
    for name in ("uniform-progress", "on-time"):
        calm = [outcome(name, seed) for seed in range(6)]
        abrupt = [run_start(name, start(seed, ABRUPT), ABRUPT, STEPS) for seed in range(6)]
        assert sum(o.lost_tokens for one in calm for o in one.jobs) == 0
        lost[name] = sum(o.lost_tokens for one in abrupt for o in one.jobs)
    assert all(lost.values()), lost


def test_an_unknown_contender_is_named() -> None:
    with pytest.raises(ValueError, match="contender 'none': allowed are fixed, queue-threshold"):
        run_start("none", start(0), SETTINGS, STEPS)
