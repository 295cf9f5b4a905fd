"""A fixed number of adapters a device: time slicing, and TUDB mLoRA's three ways to pick who shares a batch."""

from __future__ import annotations

from collections.abc import Callable

from mlora_ray.policies.placement.assignment import DraftAssignment, by_age
from mlora_ray.types import Action, AdapterView, ClusterView, PolicyState

NUM_SLOTS = 4
FAST_FIT_PADDING = 0.25  # of the padded batch

# (lengths in the group, first k of the queue) -> the one that goes in
Pick = Callable[[list[float], list[AdapterView]], AdapterView]


class _Slots:
    """Oldest first into the emptiest device; nobody is preempted. `pick` may choose among the first in the queue."""

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        board = DraftAssignment(view)
        queue = by_age(board.waiting)
        while queue:
            found = self._next(board, queue)
            if found is None:
                break
            adapter, hosts = found
            board.put(adapter, hosts)
            queue.remove(adapter)
        return board.actions(), state

    def _next(self, board: DraftAssignment, queue: list[AdapterView]) -> tuple[AdapterView, list[str]] | None:
        """Whom to place where; None when the head finds no slots. Each base has its own head."""
        for base in dict.fromkeys(a.base for a in queue):
            head = next(a for a in queue if a.base == base)
            hosts = self._hosts(board, head)
            if len(hosts) < max(1, head.width):
                continue
            if head.width > 1:
                return head, hosts[: head.width]
            group = [board.adapters[a] for a in board.groups[hosts[0]]]
            alike = [a for a in queue if a.base == base and a.width <= 1 and board.fits(a, board.hosts[hosts[0]])]
            lengths = [_length(a) for a in group]
            return self.pick(lengths, alike, NUM_SLOTS - len(group)), hosts[:1]
        return None

    def _hosts(self, board: DraftAssignment, adapter: AdapterView) -> list[str]:
        """Hosts with a free slot, emptiest first."""
        found = [h for h, g in board.groups.items() if len(g) < NUM_SLOTS and board.fits(adapter, board.hosts[h])]
        return sorted(found, key=lambda h: len(board.groups[h]))

    def pick(self, lengths: list[float], queue: list[AdapterView], num_free: int) -> AdapterView:
        return queue[0]


class Timeslice(_Slots):
    """Four adapters a device take turns, a step each (Gandiva's way). No fusion."""

    name = "timeslice"
    step_rule = "turns"


class MloraTrivial(_Slots):
    """The first k of the queue share padded batches."""

    name = "mlora-trivial"
    step_rule = "padded"


class MloraOptimalFit(_Slots):
    """Sorted by length, the window of k with the least padding.

    With `lengths` in the group already, the window is what goes beside them.
    """

    name = "mlora-optimal-fit"
    step_rule = "padded"

    def pick(self, lengths: list[float], queue: list[AdapterView], num_free: int) -> AdapterView:
        ranked = sorted(queue, key=_length)
        size = min(num_free, len(ranked))
        windows = [ranked[at : at + size] for at in range(len(ranked) - size + 1)]
        best = min(windows, key=lambda window: (_padding([*lengths, *map(_length, window)]), _oldest(window)))
        return min(best, key=lambda a: a.submitted_at_s)


class MloraFastFit(_Slots):
    """The first whose padding beside the group stays small; without one, the head."""

    name = "mlora-fast-fit"
    step_rule = "padded"

    def pick(self, lengths: list[float], queue: list[AdapterView], num_free: int) -> AdapterView:
        return next((a for a in queue if _padding([*lengths, _length(a)]) <= FAST_FIT_PADDING), queue[0])


def _length(adapter: AdapterView) -> float:
    return adapter.row_tokens or adapter.step_tokens


def _padding(lengths: list[float]) -> float:
    """Share of a batch padded to the longest that is padding."""
    longest = max(lengths, default=0.0)
    return 1.0 - sum(lengths) / (len(lengths) * longest) if longest else 0.0


def _oldest(window: list[AdapterView]) -> float:
    return min(a.submitted_at_s for a in window)
