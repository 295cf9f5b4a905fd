"""Independent jobs that may be preempted: shortest remaining work (an oracle of sizes) and least attained service."""

from __future__ import annotations

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.placement.assignment import DraftAssignment, remaining_tokens
from mlora_ray.types import Action, AdapterView, ClusterView, PolicyState

QUANTUM_S = 600.0


class _Preemptive:
    """The first in `order` have the devices, each its own; one that finds fewer than it asks for takes those."""

    def __init__(self, step_times: StepTimes | None = None) -> None:
        self._step_times = step_times or StepTimes()

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        board, step_times = DraftAssignment(view), self._step_times.seen(view.step_times)
        order = sorted(board.adapters.values(), key=lambda a: self.order(a, _tokens_s(a, step_times)))
        left = {h.base: 0 for h in board.hosts.values()}
        for host in board.hosts.values():
            left[host.base] += 1
        chosen: dict[str, int] = {}  # adapter -> how many devices
        for adapter in order:
            chosen[adapter.id] = min(max(1, adapter.width), left.get(adapter.base, 0))
            left[adapter.base] = left.get(adapter.base, 0) - chosen[adapter.id]
        for adapter in order:  # whoever stays keeps its hosts, the rest goes
            board.put(adapter, board.where.get(adapter.id, ())[: chosen[adapter.id]])
        for adapter in order:
            held = board.where.get(adapter.id, ())
            more = board.empty_hosts(adapter)[: chosen[adapter.id] - len(held)]
            if more:
                board.put(adapter, (*held, *more))
        return board.actions(), state

    def order(self, adapter: AdapterView, tokens_s: float) -> tuple[float, ...]:
        """`tokens_s`: its tokens a second alone on one device."""
        raise NotImplementedError


class Srpt(_Preemptive):
    """Least remaining device time first. It knows every size."""

    name = "srpt"

    def order(self, adapter: AdapterView, tokens_s: float) -> tuple[float, ...]:
        return remaining_tokens(adapter, unknown=1.0) / tokens_s, adapter.submitted_at_s


class Las(_Preemptive):
    """Least attained device time first, in quanta of 600 s; equal ones by age. It knows no size."""

    name = "las"
    wake_s = QUANTUM_S

    def order(self, adapter: AdapterView, tokens_s: float) -> tuple[float, ...]:
        return adapter.tokens_done / tokens_s // QUANTUM_S, adapter.submitted_at_s


def _tokens_s(adapter: AdapterView, step_times: StepTimes) -> float:
    model = step_times.of(adapter.base, adapter.device_type)
    return adapter.solo_tokens_s or model.solo_tokens_s(adapter.step_tokens, adapter.lora_rank)
