"""How long to wait before trying again."""

from __future__ import annotations


def backoff_s(attempt: int, first_s: float, most_s: float) -> float:
    """After failed attempt number `attempt`, from 1: `first_s`, then twice as long each time, at most `most_s`."""
    return min(most_s, first_s * 2.0 ** min(attempt - 1, 64))
