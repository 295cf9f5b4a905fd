"""A host whose memory grows and grows."""

from __future__ import annotations

import itertools

LEAK_S = 60.0  # over the memory limit for so long: it leaks


TREND_WINDOW_S, TREND_WINDOWS = 600.0, 6  # an hour of nothing but rises


LEAST_RISE = 0.005  # of the memory in use, from one window to the next


class MemoryTrend:
    """The least memory of each of the last windows. What a job or a row takes for a while is no trend: it goes again.

    A leak raises every window's least; `TREND_WINDOWS` rises in a row are one, and it is thought to go on for as many
    windows more.
    """

    def __init__(self) -> None:
        self._least: list[tuple[int, int]] = []  # (number of the window, least bytes), the newest last

    def add(self, now_s: float, used_bytes: int) -> None:
        window = int(now_s // TREND_WINDOW_S)
        if self._least and self._least[-1][0] == window:
            self._least[-1] = (window, min(used_bytes, self._least[-1][1]))
        else:
            self._least = [*self._least[-TREND_WINDOWS:], (window, used_bytes)]

    def projected_bytes(self) -> float:
        """0 where there is no trend. The window that is not over yet does not count."""
        done = [least for _, least in self._least[:-1]]
        if len(done) < TREND_WINDOWS:
            return 0.0
        rises = [later - earlier for earlier, later in itertools.pairwise(done)]
        return done[-1] + sum(rises) if min(rises) > LEAST_RISE * done[0] else 0.0
