"""What is to come: the cluster as a view shows it, simulated on under its own policy until every job has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mlora_ray.policies.contract import Policy
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.hosts_and_adapters import Adapter
from mlora_ray.simulate.results import Costs, SimHost, SimJob
from mlora_ray.simulate.simulation import Simulation, SimulationError
from mlora_ray.types import AdapterView, ClusterView, HostView, JobState, PolicyState

LIVE_COSTS = Costs(place_s=1.0, pause_s=1.0, migrate_s=1.0)  # about a tick
UNKNOWN_TOKENS = 1e6  # of a job that has declared no size


class Expected(NamedTuple):
    """When a job is expected to start and to end, in seconds since the Unix epoch."""

    host: str
    start_s: float
    finish_s: float


def look_ahead(view: ClusterView, policy: Policy, state: PolicyState, step_times: StepTimes) -> dict[str, Expected]:
    """Of every job that wants to train and of which the policy finds a place; as if nobody else came and nothing broke.

    Hosts that are on their way count as there.
    """
    known = step_times.seen(view.step_times)
    ahead = _Ahead(view, policy, state, known)
    try:
        outcome = ahead.run()
    except SimulationError:  # jobs that no host can take are left for ever; the others have ended by then
        outcome = ahead.outcome()
    return {one.job.id: Expected(one.hosts[0], one.started_s, one.finished_s) for one in outcome.jobs}


class _Ahead(Simulation):
    """A simulation that begins in the middle of things."""

    def __init__(self, view: ClusterView, policy: Policy, state: PolicyState, step_times: StepTimes) -> None:
        hosts = {h.id: h for h in (*view.pending_hosts, *view.hosts) if h.state == "alive"}
        super().__init__([], [_host(h) for h in hosts.values()], step_times, policy, LIVE_COSTS)
        self.state = state
        self.start_at(view.now_s, [(_begun(a, step_times), _places(a, hosts)) for a in view.adapters if _wants(a)])


def _wants(adapter: AdapterView) -> bool:
    return not adapter.state.is_final and adapter.state is not JobState.PAUSED


def _places(adapter: AdapterView, hosts: dict[str, HostView]) -> Sequence[str]:
    return [h for h in (adapter.host, *adapter.shards) if h in hosts]


def _host(host: HostView) -> SimHost:
    return SimHost(
        id=host.id,
        base=host.base,
        device_type=host.device_type,
        zone=host.zone,
        is_spot=host.is_spot,
        numerics=host.numerics,
    )


def _begun(adapter: AdapterView, step_times: StepTimes) -> Adapter:
    """Its rows are not known here: one of the step's length stands for them."""
    model = step_times.of(adapter.base, adapter.device_type)
    solo = adapter.solo_tokens_s or model.solo_tokens_s(adapter.step_tokens, adapter.lora_rank)
    tokens = float(adapter.tokens_total or max(UNKNOWN_TOKENS, 2 * adapter.tokens_done))
    begun = Adapter(
        SimJob(
            id=adapter.id,
            submit_s=adapter.submitted_at_s,
            duration_s=tokens / solo / max(1, adapter.width),
            width=adapter.width,
            rows=1,
            row_tokens=adapter.step_tokens,
            lora_rank=adapter.lora_rank,
            base=adapter.base,
            tenant=adapter.tenant,
            tokens=tokens,
            solo_tokens_s=solo,
            declared_tokens=None if adapter.tokens_total is None else tokens,
            state_bytes=0,  # a live host pages: there is no bound
            deadline_s=adapter.deadline_at_s,
            priority=adapter.priority,
            device_type=adapter.device_type,
            numerics=adapter.numerics,
        )
    )
    begun.done, begun.epoch = float(adapter.tokens_done), adapter.epoch
    return begun
