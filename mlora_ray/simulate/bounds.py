"""What no schedule can beat: bounds on total completion time, makespan and cost."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.results import SimJob


def mean_completion_bound(
    jobs: Sequence[SimJob], num_hosts: int, step_times: StepTimes, device_type: str = ""
) -> float:
    """The larger of two: everyone alone on all its devices at once, and SRPT on ONE server as fast as all together."""
    alone = sum(j.duration_s for j in jobs)
    return max(alone, _srpt_on_one_server(jobs, num_hosts, step_times, device_type)) / len(jobs)


def makespan_bound(jobs: Sequence[SimJob], num_hosts: int, step_times: StepTimes, device_type: str = "") -> float:
    """All tokens at the best rate of all hosts, and nobody before it came."""
    at_best = sum(_best_s(j, step_times, device_type) for j in jobs) / num_hosts
    first = min(j.submit_s for j in jobs)
    return max(at_best, *(j.submit_s - first + j.duration_s for j in jobs))


def _best_s(job: SimJob, step_times: StepTimes, device_type: str) -> float:
    """Device seconds of a job at the best rate that any mix of adapters reaches."""
    model = step_times.of(job.base, device_type)
    return job.tokens / max(model.best_tokens_s, job.solo_tokens_s)


def _srpt_on_one_server(jobs: Sequence[SimJob], num_hosts: int, step_times: StepTimes, device_type: str) -> float:
    """Total completion time of preemptive shortest-remaining-first, which is optimal on one server."""
    arrivals = sorted((j.submit_s, _best_s(j, step_times, device_type) / num_hosts) for j in jobs)
    total, now, at = 0.0, 0.0, 0
    left: list[list[float]] = []  # [remaining, submit]
    while at < len(arrivals) or left:
        if not left:
            now = max(now, arrivals[at][0])
        while at < len(arrivals) and arrivals[at][0] <= now:
            heapq.heappush(left, [arrivals[at][1], arrivals[at][0]])
            at += 1
        until = arrivals[at][0] if at < len(arrivals) else float("inf")
        spent = min(left[0][0], until - now)
        now += spent
        left[0][0] -= spent
        if left[0][0] <= 1e-9:
            total += now - heapq.heappop(left)[1]
    return total
