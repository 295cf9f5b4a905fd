"""Independent jobs, first come, first served: an adapter has its devices for itself; the head of the queue blocks."""

from __future__ import annotations

from mlora_ray.policies.placement.assignment import DraftAssignment, by_age
from mlora_ray.types import Action, ClusterView, PolicyState


class Independent:
    """What a queue of single jobs does; the baseline of every table. Nothing is shared and nothing preempted."""

    name = "independent"

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        """Start the oldest as long as its devices are free. Each base has its own queue."""
        board = DraftAssignment(view)
        blocked: set[str] = set()
        for adapter in by_age(board.waiting):
            if adapter.base not in blocked and not board.take(adapter, board.empty_hosts(adapter)):
                blocked.add(adapter.base)
        return board.actions(), state
