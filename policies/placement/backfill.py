"""First come, first served with EASY backfill: who fits into a gap before the head's turn may go ahead of it."""

from __future__ import annotations

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.placement.assignment import DraftAssignment, by_age, remaining_tokens
from mlora_ray.types import Action, AdapterView, ClusterView, PolicyState


class Backfill:
    """The head has a reservation at the earliest time its devices are free; nobody may delay that."""

    name = "backfill"

    def __init__(self, step_times: StepTimes | None = None) -> None:
        self._step_times = step_times or StepTimes()

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        board, step_times = DraftAssignment(view), self._step_times.seen(view.step_times)
        ends = dict.fromkeys(board.hosts, view.now_s)  # when each host is free
        for adapter in board.running:
            for host in board.where.get(adapter.id, ()):
                ends[host] = view.now_s + _duration(adapter, len(board.where[adapter.id]), step_times)
        reserved: dict[str, tuple[float, set[str]]] = {}  # base -> (start of its head, hosts it will have)
        for adapter in by_age(board.waiting):
            free = board.empty_hosts(adapter)
            if adapter.base in reserved:
                start, hosts = reserved[adapter.base]
                is_short = view.now_s + _duration(adapter, adapter.width, step_times) <= start
                free = free if is_short else [h for h in free if h not in hosts]
                board.take(adapter, free)
            elif not board.take(adapter, free):
                reserved[adapter.base] = _reserve(board, ends, adapter)
        return board.actions(), state


def _duration(adapter: AdapterView, width: int, step_times: StepTimes) -> float:
    """Seconds until it is done on that many devices; of unknown size: for ever."""
    model = step_times.of(adapter.base, adapter.device_type)
    tokens_s = adapter.solo_tokens_s or model.solo_tokens_s(adapter.step_tokens, adapter.lora_rank)
    return remaining_tokens(adapter, unknown=float("inf")) / (tokens_s * max(1, width))


def _reserve(board: DraftAssignment, ends: dict[str, float], head: AdapterView) -> tuple[float, set[str]]:
    fitting = [h for h in board.hosts.values() if h.base == head.base]
    first = sorted(fitting, key=lambda h: ends[h.id])[: max(1, head.width)]
    if len(first) < head.width:
        return float("inf"), set()
    return ends[first[-1].id], {h.id for h in first}
