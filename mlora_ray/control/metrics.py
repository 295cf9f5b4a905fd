"""What Prometheus sees of a placement service: the table of every metric, and the one object that feeds them.

Ray exports a counter `mlora_x` as `ray_mlora_x_total`, a histogram as `ray_mlora_x_bucket`, `_sum` and `_count` (the
sum is made of the buckets' middles: an approximation), a gauge as `ray_mlora_x`; a gauge that is not set again is gone
after two of Ray's reports, 20 s. Counters begin at 0 in each process: query them with `increase` or `rate`.
"""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from math import ceil

from mlora_ray.control.metric_table import METRICS, MetricSpec, Write
from mlora_ray.types import JobState
from mlora_ray.types.status import HostStatus, JobStatus, RunStatus

MAX_TENANTS = 100  # by name, the others together as `other`: a counter's series never goes away
MAX_JOBS = 200  # of those being trained have gauges by job
WRITES_A_TICK = 150  # of series by host, job and tenant: one takes 4 us, a tick has to stay cheap
REFRESH_S = 8.0  # within which all of them are written once: Ray forgets them after 20 s
MAX_COST_GAP_S = 60.0  # a longer silence is not charged: nobody saw whether the hosts lived
OTHER = "other"
FINAL = frozenset(state for state in JobState if state.is_final)


_Detail = tuple[str, float, dict[str, str]]  # metric, value, tags


class Metrics:
    """Feeds METRICS from one process, under the tag `service`. Ray's trouble with metrics is logged once, never raised.

    A job first seen is where counting begins, so a placement that starts again counts no step twice.
    """

    def __init__(self, service: str, instrument: Callable[[MetricSpec, str], Write]) -> None:
        self._writes = {spec.name: instrument(spec, service) for spec in METRICS.values()}
        self._furthest: dict[str, tuple[int, int, bool]] = {}  # job: step, tokens, is final; what has been counted
        self._tenants: set[str] = set()
        self._host_kinds: set[tuple[str, str, str]] = set()
        self._uncounted: Tally[tuple[str, str, str]] = Tally()  # counter, final state or empty, tenant
        self._details: list[_Detail] = []
        self._num_details = 0
        self._observed_at_s: float | None = None
        self._has_warned = False

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Add to a counter; 0 is nothing. Raises ValueError for an unknown name or tag, or a value below 0."""
        _check(name, "counter", tags)
        if not value >= 0:
            raise ValueError(f"{name}: {value} — a counter only grows")
        if value:
            self._write(name, float(value), tags)

    def seconds(self, name: str, value: float, **tags: str) -> None:
        """Put a time into a histogram; below 0, as of clocks that differ, is 0. Raises ValueError as `count` does."""
        _check(name, "histogram", tags)
        self._write(name, max(0.0, float(value)), tags)

    def observe(
        self,
        status: RunStatus,
        hosts: Sequence[HostStatus],
        *,
        now_s: float,
        tick_s: float,
        decision_s: float | None = None,
        queued_tokens: int = 0,
        wanted_hosts: int = 0,
        draining_nodes: int = 0,
        clock_skew_s: float = 0.0,
        tenants: Mapping[str, str] | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> None:
        """Once a tick. `status` is of all jobs; `tenants` by job name, else `default`; `prices` an hour by host type.

        `decision_s` is None in a tick that decided nothing.
        """
        owners = {} if tenants is None else tenants
        present = [host for host in hosts if host.state != "gone"]
        gap_s = 0.0 if self._observed_at_s is None else max(0.0, now_s - self._observed_at_s)
        self._observed_at_s = now_s
        self._count_progress(status.jobs, owners)
        self._set_states(status.jobs, present)
        self._write_details(status.jobs, present, owners, gap_s)
        self._charge(present, {} if prices is None else prices, gap_s)
        self._write("mlora_throughput_tokens_per_second", status.tokens_per_s, {})
        self._write("mlora_remaining_tokens", max(0, status.total_tokens - status.done_tokens), {})
        self._write("mlora_queued_tokens", queued_tokens, {})
        self._write("mlora_wanted_hosts", wanted_hosts, {})
        self._write("mlora_draining_nodes", draining_nodes, {})
        self._write("mlora_clock_skew_seconds", abs(clock_skew_s), {})
        self._write("mlora_tick_seconds", tick_s, {})
        if decision_s is not None:
            self._write("mlora_decision_seconds", decision_s, {})

    def _count_progress(self, jobs: Sequence[JobStatus], owners: Mapping[str, str]) -> None:
        for job in jobs:
            now = (job.step, job.num_tokens, job.state in FINAL)
            last = self._furthest.setdefault(job.name, now)
            if now == last:
                continue
            tenant = self._tenant(owners.get(job.name, "default"))
            self._uncounted["mlora_optimizer_steps", "", tenant] += max(0, now[0] - last[0])
            self._uncounted["mlora_trained_tokens", "", tenant] += max(0, now[1] - last[1])
            if now[2] and not last[2]:
                self._uncounted["mlora_finished_jobs", job.state.value, tenant] += 1
            self._furthest[job.name] = (max(now[0], last[0]), max(now[1], last[1]), now[2])
        if len(self._furthest) > len(jobs):
            names = {job.name for job in jobs}
            self._furthest = {name: last for name, last in self._furthest.items() if name in names}

    def _set_states(self, jobs: Sequence[JobStatus], hosts: Sequence[HostStatus]) -> None:
        states = Tally([job.state for job in jobs])
        for state in JobState:
            self._write("mlora_current_jobs", states[state], {"state": state.value})
        kinds = Tally((host.state, host.host_type, host.base) for host in hosts)
        for kind in kinds.keys() | self._host_kinds:  # 0 once for those that are no more
            tags = dict(zip(("state", "host_type", "base"), kind, strict=True))
            self._write("mlora_current_hosts", kinds[kind], tags)
        self._host_kinds = set(kinds)

    def _write_details(
        self, jobs: Sequence[JobStatus], hosts: Sequence[HostStatus], owners: Mapping[str, str], gap_s: float
    ) -> None:
        """A part of the series by host, job and tenant: the others come with the next ticks."""
        if not self._details:
            self._details = [*self._of_hosts(hosts), *self._of_jobs(jobs, owners), *self._of_tenants(jobs, owners)]
            self._uncounted.clear()
            self._num_details = len(self._details)
        number = max(WRITES_A_TICK, ceil(self._num_details * gap_s / REFRESH_S))
        for name, value, tags in self._details[:number]:
            self._write(name, value, tags)
        del self._details[:number]

    def _of_hosts(self, hosts: Sequence[HostStatus]) -> Iterator[_Detail]:
        for host in hosts:
            tags = {"host": host.id, "host_type": host.host_type}
            yield "mlora_host_memory_bytes", host.memory_bytes, tags
            yield "mlora_host_memory_limit_bytes", host.memory_limit_bytes, tags
            yield "mlora_host_throughput_tokens_per_second", host.tokens_per_s, tags
            if host.row_tokens:
                yield "mlora_host_row_tokens", host.row_tokens, tags
            if host.step_time_drift:
                yield "mlora_host_drift_ratio", host.step_time_drift, tags

    def _of_jobs(self, jobs: Sequence[JobStatus], owners: Mapping[str, str]) -> Iterator[_Detail]:
        for job in islice((job for job in jobs if job.state.is_on_host), MAX_JOBS):
            tags = {"job": job.name, "tenant": self._tenant(owners.get(job.name, "default"))}
            yield "mlora_job_progress_ratio", job.step / max(1, job.total_steps), tags
            yield "mlora_job_throughput_tokens_per_second", job.tokens_per_s, tags
            if job.loss == job.loss:
                yield "mlora_job_loss_nats", job.loss, tags

    def _of_tenants(self, jobs: Sequence[JobStatus], owners: Mapping[str, str]) -> Iterator[_Detail]:
        waiting = Tally([owners.get(job.name, "default") for job in jobs if job.state is JobState.QUEUED])
        queued: Tally[str] = Tally()
        for name, number in waiting.items():
            queued[self._tenant(name)] += number
        for tenant in self._tenants:
            yield "mlora_queued_jobs", queued[tenant], {"tenant": tenant}
        for (name, final_state, tenant), number in self._uncounted.items():
            tags = {"state": final_state, "tenant": tenant} if final_state else {"tenant": tenant}
            if number:
                yield name, number, tags

    def _tenant(self, name: str) -> str:
        if name not in self._tenants:
            if len(self._tenants) >= MAX_TENANTS:
                name = OTHER
            self._tenants.add(name)
        return name

    def _charge(self, hosts: Sequence[HostStatus], prices: Mapping[str, float], gap_s: float) -> None:
        per_hour = sum(prices.get(host.host_type, 0.0) for host in hosts)
        self._write("mlora_cost_currency_per_hour", per_hour, {})
        if gap_s <= MAX_COST_GAP_S:
            self.count("mlora_spent_currency", per_hour * gap_s / 3600)

    def _write(self, name: str, value: float, tags: dict[str, str]) -> None:
        try:
            self._writes[name](value, tags)
        except Exception as error:  # noqa: BLE001 - the actor's edge: no metric is worth a placement
            if not self._has_warned:
                logging.getLogger(__name__).warning("event=metrics_failed metric=%s error=%r", name, error)
            self._has_warned = True


def _check(name: str, kind: str, tags: Mapping[str, str]) -> None:
    spec = METRICS.get(name)
    if spec is None or spec.kind != kind:
        allowed = ", ".join(sorted(each.name for each in METRICS.values() if each.kind == kind))
        raise ValueError(f"metric: {name!r} — allowed of kind {kind}: {allowed}")
    if set(tags) != set(spec.tags):
        raise ValueError(f"{name}: tags {sorted(tags)} — allowed: {sorted(spec.tags)}, each of them")
