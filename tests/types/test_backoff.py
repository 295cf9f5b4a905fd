"""Waits double up to a bound."""

from __future__ import annotations

from mlora_ray.types.backoff import backoff_s


def test_waits_double_up_to_the_bound() -> None:
    assert [backoff_s(attempt, 0.5, 30.0) for attempt in range(1, 9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert sum(backoff_s(attempt, 0.5, 30.0) for attempt in range(1, 5)) == 7.5
    assert backoff_s(10**6, 0.5, 30.0) == 30.0
