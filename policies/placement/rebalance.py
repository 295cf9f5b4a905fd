"""First come, first placed, and evened out: when hosts come or empty, adapters move to where fewer are.

At most one adapter a decision and pair of hosts, and only where the difference is at least two: a move costs its
adapter a pause and must not be undone by the next decision.
"""

from __future__ import annotations

from mlora_ray.policies.placement.fifo import Fifo
from mlora_ray.types import Action, AdapterView, ClusterView, HostView, JobState, Migrate, Place, PolicyState

MIN_DIFFERENCE = 2


class Rebalance:
    """Fifo's placements; moves for what stands unevenly. Needs no state."""

    name = "rebalance"

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        actions, state = Fifo().decide(view, state)
        load = {h.id: len(h.group) for h in view.hosts}
        for action in actions:
            if isinstance(action, Place):
                load[action.host] += 1
        adapters = {a.id: a for a in view.adapters}
        for host in sorted((h for h in view.hosts if h.state == "alive"), key=lambda h: (load[h.id], h.id)):
            move = _best_move(host, view, load, adapters)
            if move is not None:
                load[host.id] += 1
                load[adapters.pop(move.adapter).host or ""] -= 1
                actions.append(move)
        return actions, state


def _best_move(
    target: HostView, view: ClusterView, load: dict[str, int], adapters: dict[str, AdapterView]
) -> Migrate | None:
    """From the fullest host that computes the same bits: the adapter with the most work left."""
    alike = [
        h
        for h in view.hosts
        if (h.base, h.numerics, h.state) == (target.base, target.numerics, "alive")
        and load[h.id] - load[target.id] >= MIN_DIFFERENCE
    ]
    if not alike:
        return None
    source = max(alike, key=lambda h: (load[h.id], h.id))
    movable = [adapters[name] for name in source.group if name in adapters]
    movable = [a for a in movable if a.state is JobState.TRAINING and a.host == source.id]
    if not movable:
        return None
    chosen = max(movable, key=lambda a: ((a.tokens_total or 0) - a.tokens_done, a.id))
    return Migrate(adapter=chosen.id, host=target.id, epoch=chosen.epoch)
