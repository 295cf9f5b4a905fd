"""Figures of one simulation, and of many windows together."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.bounds import mean_completion_bound
from mlora_ray.simulate.results import JobOutcome, Outcome

MIN_TENANT_JOBS = 5  # a tenant with fewer says nothing of fairness
NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One policy on one window. Utilisation is of the hosts that were paid for.

    `utilisation`: share of host time with an adapter; `compute_utilisation`: tokens over what all that time gives at
    the best rate. `jain`: over tenants, of the mean of (time alone / completion time) of a tenant's jobs.
    """

    mean_jct_s: float
    p50_jct_s: float
    p99_jct_s: float
    max_jct_s: float
    mean_slowdown: float
    p99_slowdown: float
    mean_wait_s: float
    makespan_s: float
    tokens_per_busy_host_s: float
    host_hours: float
    utilisation: float
    compute_utilisation: float
    cost: float
    hard_deadlines_met: float
    soft_deadlines_met: float
    jain: float
    num_placed: int
    num_paused: int
    num_migrated: int
    lost_tokens: float
    bound_s: float
    bound_ratio: float
    decision_ms: float
    max_decision_ms: float
    num_decisions: int
    num_events: int


def measure(outcome: Outcome, num_hosts: int, step_times: StepTimes, device_type: str = "") -> Figures:
    """The figures of one outcome."""
    jobs = [o.job for o in outcome.jobs]
    jct = np.asarray([o.completion_s for o in outcome.jobs])
    slowdown = np.asarray([o.slowdown for o in outcome.jobs])
    bound = mean_completion_bound(jobs, num_hosts, step_times, device_type)
    best_s = sum(j.tokens / step_times.of(j.base, device_type).best_tokens_s for j in jobs)
    decisions = np.asarray(outcome.decision_s) * 1e3
    return Figures(
        mean_jct_s=float(jct.mean()),
        p50_jct_s=float(np.percentile(jct, 50)),
        p99_jct_s=float(np.percentile(jct, 99)),
        max_jct_s=float(jct.max()),
        mean_slowdown=float(slowdown.mean()),
        p99_slowdown=float(np.percentile(slowdown, 99)),
        mean_wait_s=float(np.mean([o.wait_s for o in outcome.jobs])),
        makespan_s=outcome.makespan_s,
        tokens_per_busy_host_s=outcome.tokens / outcome.busy_s,
        host_hours=outcome.host_s / 3600,
        utilisation=outcome.allocated_s / outcome.host_s,
        compute_utilisation=best_s / outcome.host_s,
        cost=outcome.cost,
        hard_deadlines_met=_share_met(o for o in outcome.jobs if o.job.is_hard),
        soft_deadlines_met=_share_met(o for o in outcome.jobs if not o.job.is_hard),
        jain=jain(outcome.jobs),
        num_placed=outcome.num_placed,
        num_paused=outcome.num_paused,
        num_migrated=outcome.num_migrated,
        lost_tokens=sum(o.lost_tokens for o in outcome.jobs),
        bound_s=bound,
        bound_ratio=float(jct.mean()) / bound,
        decision_ms=float(np.median(decisions)),
        max_decision_ms=float(decisions.max()),
        num_decisions=outcome.num_decisions,
        num_events=outcome.num_events,
    )


def _share_met(outcomes: Iterable[JobOutcome]) -> float:
    """Of the jobs that have a deadline; 1 without any."""
    held = [o.finished_s <= o.job.deadline_s for o in outcomes if o.job.deadline_s is not None]
    return sum(held) / len(held) if held else 1.0


def jain(outcomes: Sequence[JobOutcome]) -> float:
    """Jain's index over tenants of how close their jobs came to having the cluster for themselves."""
    tenants: dict[str, list[float]] = {}
    for one in outcomes:
        tenants.setdefault(one.job.tenant, []).append(1.0 / one.slowdown)
    shares = [sum(held) / len(held) for held in tenants.values() if len(held) >= MIN_TENANT_JOBS]
    return sum(shares) ** 2 / (len(shares) * sum(s * s for s in shares)) if shares else 1.0


def geometric_mean(values: Iterable[float]) -> float:
    held = [math.log(max(v, 1e-12)) for v in values]
    return math.exp(sum(held) / len(held))


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Bootstrap 95% interval of the geometric mean over windows."""
    random_ = random.Random(seed)
    means = sorted(geometric_mean(random_.choices(values, k=len(values))) for _ in range(NUM_RESAMPLES))
    return means[int(0.025 * NUM_RESAMPLES)], means[int(0.975 * NUM_RESAMPLES) - 1]


def plain(figures: Figures) -> dict[str, float]:
    return asdict(figures)
