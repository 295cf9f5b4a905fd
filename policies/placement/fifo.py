"""First come, first placed: every waiting adapter goes to the host of its base with the fewest adapters.

A host pages between its adapters by itself, so a host is never full.
"""

from __future__ import annotations

from collections import Counter

from mlora_ray.policies.compatibility import why_not
from mlora_ray.types import Action, AdapterView, ClusterView, HostView, JobState, Place, PolicyState


class Fifo:
    """The baseline. Needs no state."""

    name = "fifo"

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        """Place what waits, oldest first; equal ages in the view's order, equal hosts by id."""
        load = Counter(a.host for a in view.adapters)
        waiting = [a for a in view.adapters if a.state is JobState.QUEUED and a.host is None]
        actions: list[Action] = []
        for adapter in sorted(waiting, key=lambda a: a.submitted_at_s):
            fitting = [h for h in view.hosts if _fits(adapter, h)]
            if not fitting:
                continue
            host = min(fitting, key=lambda h: (load[h.id], h.id))
            load[host.id] += 1
            actions.append(Place(adapter=adapter.id, host=host.id, epoch=adapter.epoch))
        return actions, state


def _fits(adapter: AdapterView, host: HostView) -> bool:
    has_room = host.free_bytes == 0 or adapter.state_bytes <= host.free_bytes
    return host.state == "alive" and has_room and not why_not(adapter, host)
