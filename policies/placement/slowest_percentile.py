"""Who is about to be among the slowest hundredth.

An adapter's projected completion time is its age plus what it needs alone from now on. `limit_s` is the 99th
percentile of that over the jobs so far, those that ended counting with their last projection. It follows the load by
itself: when everybody waits, it rises.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping

from mlora_ray.types import ClusterView, PolicyState

SHARE = 0.01  # the slowest
MAX_COUNT = 2000  # jobs that are remembered; then every second one is forgotten
KEPT_SHARE = 0.05  # of the jobs: only the slowest need be remembered


class SlowestPercentile:
    """`projected_s`: of every adapter that has not ended."""

    def __init__(self, state: PolicyState, view: ClusterView, projected_s: Mapping[str, float]) -> None:
        held = dict(state.items)
        self._projected = projected_s
        self._count = held.pop("count", 0.0)
        newest_s = held.pop("newest_s", -math.inf)
        self._count += sum(a.submitted_at_s > newest_s for a in view.adapters)
        self._newest_s = max((a.submitted_at_s for a in view.adapters), default=newest_s)
        self._newest_s = max(self._newest_s, newest_s)
        ended = []
        for name, seconds in held.items():
            kind, _, job = name.partition(":")
            if kind == "ended" or job not in projected_s:
                ended.append(seconds)
        self._ended = sorted(ended, reverse=True)
        at = int(SHARE * self._count)
        slowest = heapq.nlargest(at + 1, itertools.chain(self._ended, projected_s.values()))
        self.limit_s = max(slowest[-1], 1.0) if slowest else math.inf

    @property
    def has_hundredth(self) -> bool:
        """Of fewer jobs the slowest hundredth is the slowest job."""
        return int(SHARE * self._count) >= 1

    def pressure(self, name: str) -> float:
        """Its projected completion time as a share of the limit."""
        return self._projected[name] / self.limit_s

    def state(self) -> PolicyState:
        """What the next decision needs."""
        num = 1 + int(KEPT_SHARE * self._count)
        count, ended = self._count, self._ended[:num]
        if count > MAX_COUNT:
            count, ended = count / 2, ended[::2]
        long = heapq.nlargest(num, self._projected.items(), key=lambda held: held[1])
        items = [("count", count), ("newest_s", self._newest_s)]
        items += [(f"ended:{at}", seconds) for at, seconds in enumerate(ended)]
        items += [(f"long:{name}", seconds) for name, seconds in long]
        return PolicyState(items=tuple(items))
