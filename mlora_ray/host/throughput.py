"""Tokens per second over a sliding window."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


RATE_WINDOW_S = 15.0


MIN_WINDOW_S = 1.0  # a first step alone says little


class RateMeter:
    """Tokens per second over the last `RATE_WINDOW_S`; time comes in."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()
        self._first_s: float | None = None

    def add(self, now_s: float, num_tokens: int) -> None:
        if self._first_s is None:
            self._first_s = now_s
        self._counts.append((now_s, num_tokens))

    def per_s(self, now_s: float) -> float:
        """0 before the first step, and when nothing was trained in the window."""
        while self._counts and self._counts[0][0] < now_s - RATE_WINDOW_S:
            self._counts.popleft()
        if self._first_s is None:
            return 0.0
        window_s = max(MIN_WINDOW_S, min(RATE_WINDOW_S, now_s - self._first_s))
        return sum(tokens for _, tokens in self._counts) / window_s
