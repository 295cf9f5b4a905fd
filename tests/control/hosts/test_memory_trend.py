"""What is known of a host: when its memory is on its way to the limit."""

from __future__ import annotations

import random

from mlora_ray.control.hosts.memory_trend import TREND_WINDOW_S, TREND_WINDOWS, MemoryTrend

HOUR_S = TREND_WINDOW_S * (TREND_WINDOWS + 1)


def projected(memory: list[int], every_s: float = 30.0) -> float:
    trend = MemoryTrend()
    for at, used in enumerate(memory):
        trend.add(at * every_s, used)
    return trend.projected_bytes()


def test_a_leak_is_a_trend_and_is_followed_on() -> None:
    random_ = random.Random(1)
    leaking = [1000 + 5 * at + random_.randrange(100) for at in range(int(HOUR_S / 30) + 1)]
    assert 1900 < projected(leaking) < 2400


def test_what_comes_and_goes_is_none() -> None:
    random_ = random.Random(2)
    num = int(HOUR_S / 30) + 1
    assert projected([1000 + random_.randrange(900) for _ in range(num)]) == 0.0
    assert projected([1000 + (500 if at > num // 2 else 0) for at in range(num)]) == 0.0
    assert projected([1000 + at for at in range(num // 2)]) == 0.0  # not for long enough
