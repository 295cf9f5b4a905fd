"""One set of jobs under several ways to have hosts, while spot machines come and go: what `benchmarks/spot.py` repeats.

A contender is a placement policy and a `scale(view, state) -> (actions, state')`: pure functions of what is seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlora_ray.policies.contract import Policy, load_policy
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.scaling.baselines import FixedNumber, QueueThreshold, SteadyState
from mlora_ray.policies.spot.deadline_slack import SpotSettings
from mlora_ray.policies.spot.on_time import OnTime
from mlora_ray.policies.spot.uniform_progress import UniformProgress
from mlora_ray.policies.spot.zone_probing import ProbeState
from mlora_ray.simulate.elastic_simulation import Autoscaler, FleetSettings, FleetSimulation, SpotSeries
from mlora_ray.simulate.results import Costs, Outcome, SimJob
from mlora_ray.simulate.spot_series import cut, span_s
from mlora_ray.simulate.traces import TraceRow
from mlora_ray.simulate.workload import WorkloadSettings, make_window
from mlora_ray.types import Action, ClusterView, HostType

CONTENDERS = ("fixed", "queue-threshold", "uniform-progress", "on-time")
MIN_NOTICE_S, MAX_NOTICE_S = 30.0, 120.0


class Scaler(Protocol):
    """How many hosts there should be, as a pure function of the view and what it remembers."""

    def scale(self, view: ClusterView, state: Any) -> tuple[Sequence[Action], Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticSettings:
    """What a start is made of. Prices are per host and hour."""

    workload: WorkloadSettings
    num_zones: int = 1
    depth: int = 1  # one machine of a series counts for so many
    spot_price: float = 1.0
    sure_price: float = 3.0
    num_fixed: int = 4
    jobs_per_host: int = 2
    notice_s: float | None = None  # none: drawn for each start, 30 to 120
    length_s: float = 14 * 86400.0  # of the spot series, from the start on
    costs: Costs = field(default_factory=Costs)
    scale_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The jobs, and the spot machines while they run."""

    seed: int
    series: str
    start_s: float
    jobs: tuple[SimJob, ...]
    fleet: FleetSettings


def draw_start(
    rows: Sequence[TraceRow],
    spot: Sequence[SpotSeries],
    settings: ElasticSettings,
    step_times: StepTimes,
    seed: int,
) -> Start:
    """A series and a second of it, drawn at random; further zones are others of its folder at the same second."""
    random_ = random.Random(f"spot {seed}")
    first = random_.choice(spot)
    start_s = first.at_s[0] + random_.random() * span_s(first)
    folder = first.zone.rpartition("/")[0]
    others = [s for s in spot if s.zone.rpartition("/")[0] == folder and s is not first]
    random_.shuffle(others)
    zones = [first, *others[: settings.num_zones - 1]]
    series = tuple(
        cut(one, min(start_s, one.at_s[-1]), settings.length_s, f"zone-{at}", settings.depth)
        for at, one in enumerate(zones)
    )
    notice_s = random_.uniform(MIN_NOTICE_S, MAX_NOTICE_S) if settings.notice_s is None else settings.notice_s
    fleet = FleetSettings(
        spot=series,
        notice_s=notice_s,
        host_types=host_types(settings, step_times, len(series)),
        autoscale_s=settings.scale_s,
    )
    jobs = tuple(make_window(rows, settings.workload, step_times, seed))
    return Start(seed=seed, series=first.zone, start_s=start_s, jobs=jobs, fleet=fleet)


def host_types(settings: ElasticSettings, step_times: StepTimes, num_zones: int) -> tuple[HostType, ...]:
    """One type on demand, and a spot type for each zone."""
    device = step_times.default.device_type
    sure = HostType(name="sure", device=device, price_per_hour=settings.sure_price, max_hosts=1000)
    spot = [
        HostType(
            name=f"spot-{at}",
            device=device,
            zone=f"zone-{at}",
            is_spot=True,
            price_per_hour=settings.spot_price,
            max_hosts=1000,
        )
        for at in range(num_zones)
    ]
    return (sure, *spot)


def run_start(name: str, start: Start, settings: ElasticSettings, step_times: StepTimes) -> Outcome:
    """One contender on one start."""
    policy, autoscaler = _contender(name, settings, step_times)
    return FleetSimulation(start.jobs, [], step_times, policy, settings.costs, start.fleet, autoscaler).run()


def remembering(scale: Callable[[ClusterView, Any], tuple[Sequence[Action], Any]], state: object) -> Autoscaler:
    """A pure `scale` as the simulation asks for it: what it remembers goes from one answer to the next question."""
    states = [state]

    def decide(view: ClusterView) -> Sequence[Action]:
        actions, states[0] = scale(view, states[0])
        return actions

    return decide


def spot_settings(settings: ElasticSettings) -> SpotSettings:
    """The changeover, the gap and the prices of this simulation."""
    costs = settings.costs
    return SpotSettings(
        changeover_s=costs.boot_s + costs.base_s + costs.place_s,
        probe_gap_s=settings.scale_s,
        spot_to_sure=settings.spot_price / settings.sure_price,
    )


def _contender(name: str, settings: ElasticSettings, step_times: StepTimes) -> tuple[Policy, Autoscaler]:
    numbers = spot_settings(settings)
    plain: dict[str, Scaler] = {
        "fixed": FixedNumber(num_hosts=settings.num_fixed),
        "queue-threshold": QueueThreshold(jobs_per_host=settings.jobs_per_host),
    }
    if name in plain:
        return load_policy("rate-remaining", step_times), remembering(plain[name].scale, SteadyState())
    if name == "uniform-progress":
        rule = UniformProgress(step_times, numbers)
        return rule, remembering(rule.scale, ProbeState())
    if name == "on-time":
        ours = OnTime(step_times, numbers)
        return ours, remembering(ours.scale, ProbeState())
    raise ValueError(f"contender {name!r}: allowed are {', '.join(CONTENDERS)}")
