"""What comes at an hour of the day is made ready for on the days after."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.policies.scaling import arrival_forecast
from mlora_ray.policies.scaling.arrival_forecast import HOUR_S, Arrived, expected, learn
from mlora_ray.policies.scaling.autoscale import AutoscaleState
from mlora_ray.types import AutoscaleSettings, JobState, serialization
from tests.policies.scaling.autoscale_world import World

DAY_S = 24 * HOUR_S
SETTINGS = AutoscaleSettings(max_hosts=4, jobs_per_host=4, down_delay_s=300.0, is_forecasting=True)


def day_after_day(days: int, per_day: list[tuple[float, int]]) -> arrival_forecast.Memory:
    """The memory at midnight after `days` days with (second of the day, jobs) each, looked at every ten minutes."""
    memory: arrival_forecast.Memory = ()
    jobs: list[Arrived] = []
    for tick in range(int(days * DAY_S / 600) + 1):
        now_s = tick * 600.0
        for at_s, number in per_day:
            if at_s <= now_s % DAY_S < at_s + 600 and now_s < days * DAY_S:
                jobs += [Arrived("b1", now_s, 0.25)] * number
        memory = learn(memory, jobs[-50:], now_s)
    return memory


def test_a_burst_is_known_better_each_day() -> None:
    midnight = [day_after_day(days, [(9 * HOUR_S, 8)]) for days in (1, 2, 3)]
    known = [expected(memory, days * DAY_S + 9 * HOUR_S, HOUR_S)["b1"] for days, memory in enumerate(midnight, 1)]
    assert known == pytest.approx([2 * 0.4, 2 * 0.64, 2 * 0.784])  # 8 jobs that keep 2 hosts busy
    assert expected(midnight[2], 3 * DAY_S + 8.9 * HOUR_S, 900.0)["b1"] == pytest.approx(8 * 0.784 * 0.25 * 0.15)
    assert expected(midnight[2], 3 * DAY_S + 3 * HOUR_S)["b1"] == 0.0


def test_a_burst_that_stays_away_is_forgotten() -> None:
    memory = day_after_day(3, [(9 * HOUR_S, 8)])
    later = learn(memory, [], 10 * DAY_S)  # a service that was away: a day counts once
    for hour in range(24 * 6):
        later = learn(later, [], 10 * DAY_S + hour * HOUR_S)
    assert 0 < expected(later, 16 * DAY_S + 9 * HOUR_S, HOUR_S)["b1"] < 0.1


def test_no_job_is_counted_twice() -> None:
    jobs = [Arrived("b1", 10.0, 0.5), Arrived("b1", 20.0, 0.5)]
    memory = learn((), jobs, 30.0)
    for second in range(31, 200):
        memory = learn(memory, jobs, float(second))
    memory = learn(memory, jobs, HOUR_S + 1)
    assert dict(memory)["hour|b1|0"] == pytest.approx(0.4 * 2)


@settings(deadline=None)  # a busy machine is no mistake
@given(
    st.lists(
        st.tuples(st.sampled_from(["b1", "b|2"]), st.floats(0, 3 * DAY_S), st.floats(0.001, 1.0)).map(
            lambda j: Arrived(*j)
        ),
        max_size=20,
    ),
    st.lists(st.floats(0, 3 * DAY_S), min_size=1, max_size=20).map(sorted),
)
def test_it_expects_no_more_than_came_and_is_plain_data(jobs: list[Arrived], times: list[float]) -> None:
    memory: arrival_forecast.Memory = ()
    for now_s in times:
        there = [job for job in jobs if job.at_s <= now_s]
        assert learn(memory, there, now_s) == learn(memory, there, now_s)
        memory = learn(memory, there, now_s)
        state = AutoscaleState(arrivals=memory)
        assert serialization.loads(AutoscaleState, serialization.dumps(state)) == state
        for base, load in expected(memory, now_s, DAY_S).items():
            assert 0 <= load <= sum(job.base == base for job in jobs) + 1e-9


def test_hosts_are_there_before_the_jobs_and_go_again_where_none_come() -> None:
    """Four jobs at nine each day. On the fifth day the host is up at nine; on the sixth nobody comes, and it goes."""
    world = World(SETTINGS, boot_s=300.0, tick_s=60.0, now_s=0.0)
    waits = []
    for day in range(5):
        world.run(day * DAY_S + 9 * HOUR_S + 60 - world.now_s)
        names = [f"{day}-{i}" for i in range(16)]
        world.submit(*names, tokens_total=6000)
        while any(world.jobs[n].state is not JobState.SUCCEEDED and world.jobs[n].host is None for n in names):
            world.tick()
        waits.append(world.now_s - (day * DAY_S + 9 * HOUR_S + 60))
        world.run(2 * HOUR_S)
        assert world.hosts == {}
    assert waits[0] >= 300.0  # boots first
    assert waits[-1] <= 60.0
    launched = world.counts("launch")
    world.run(5 * DAY_S + 8 * HOUR_S - world.now_s)
    assert world.hosts == {}
    world.run(1.3 * HOUR_S)
    assert world.counts("launch") > launched
    world.run(2 * HOUR_S)
    assert world.hosts == {}


def test_it_is_off_unless_asked_for() -> None:
    assert not AutoscaleSettings().is_forecasting
    world = World(dataclasses.replace(SETTINGS, is_forecasting=False))
    world.submit("job")
    world.run(100)
    assert world.state.arrivals == ()
