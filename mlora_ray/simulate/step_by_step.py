"""The same cluster, one event a step: what the fluid simulation is checked against.

A group's step is atomic. Who joins waits for the next one, who leaves loses the one that runs, and a job ends with the
step in which its last token is trained. Only adapters of width 1: shards of a wide one would have to meet after every
step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlora_ray.policies.contract import Policy
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.hosts_and_adapters import Adapter, Host, group_step_s
from mlora_ray.simulate.results import Costs, SimHost, SimJob
from mlora_ray.simulate.simulation import HOST, Simulation

ROUNDING = 1e-9  # of a job's tokens


class StepExactSimulation(Simulation):
    """Raises ValueError where a job is wider than 1."""

    def __init__(
        self,
        jobs: Sequence[SimJob],
        hosts: Iterable[SimHost],
        step_times: StepTimes,
        policy: Policy,
        costs: Costs | None = None,
    ) -> None:
        wide = [j.id for j in jobs if j.width != 1]
        if wide:
            raise ValueError(f"step by step only jobs of width 1 can be simulated, not {', '.join(wide[:5])}")
        super().__init__(jobs, hosts, step_times, policy, costs)
        self._in_step: dict[str, list[tuple[Adapter, int]]] = {}  # host -> who takes part, under which version

    def retime(self) -> None:
        """A host that stands still begins a step with whoever is ready."""
        for host in self.touched.values():
            host.view = None
            if host.spec.id not in self._in_step:
                self._begin(host)
        self.touched = {}

    def _begin(self, host: Host) -> None:
        host.account(self.now_s)
        ready = [a for a in host.group.values() if a.ready_s <= self.now_s]
        host.step_s = group_step_s(host.model, [a.job for a in ready], self.rule) if ready else 0.0
        if ready:
            self._in_step[host.spec.id] = [(a, a.version) for a in ready]
            self.push(self.now_s + host.step_s, HOST, host)

    def host_event(self, subject: object) -> bool:
        """A step ends; whoever took part and is still there has trained one more."""
        assert isinstance(subject, Host)
        has_ended = False
        for adapter, version in self._in_step.pop(subject.spec.id):
            if adapter.version != version:
                continue
            adapter.done = min(adapter.job.tokens, adapter.done + adapter.job.step_tokens)
            if adapter.done >= adapter.job.tokens * (1 - ROUNDING):
                self.end(adapter)
                has_ended = True
        self._begin(subject)
        return has_ended
