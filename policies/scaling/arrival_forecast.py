"""How many jobs will come soon, from how many came at this hour of the day before.

A day has 24 buckets (UTC). When an hour ends, each base's bucket of that hour moves by `WEIGHT` towards the number of
jobs that came in it. The memory is plain data, so that it travels with the autoscaler's state:

    last|base      newest submission that has been counted
    open|base      jobs counted in the hour that runs
    load|base      hosts that a job keeps busy, moving mean
    hour|base|17   jobs that come between 17:00 and 18:00, moving mean
    now||          number of the hour that runs, counted from time 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Memory = tuple[tuple[str, float], ...]

HOUR_S = 3600.0
HOURS = 24
WEIGHT = 0.4  # of the newest day; a burst seen on three days is known to 78%
AHEAD_S = 900.0  # arrivals so far ahead are made ready for: longer than a cloud machine takes to boot and load a base
NOW = "now||"


class Arrived(NamedTuple):
    """One job as the forecast sees it: when it was submitted, and the hosts that it keeps busy."""

    base: str
    at_s: float
    load: float


def learn(memory: Memory, jobs: Sequence[Arrived], now_s: float) -> Memory:
    """The memory with the jobs that came since, and with the hours that have ended folded in."""
    held = dict(memory)
    hour = now_s // HOUR_S
    ended = min(hour - held.get(NOW, hour), float(HOURS))
    for back in range(int(ended), 0, -1):
        _fold(held, int((hour - back) % HOURS))
    held[NOW] = hour
    for base in sorted({job.base for job in jobs}):
        last = held.get(f"last|{base}", hour * HOUR_S - 1.0)
        new = [job for job in jobs if job.base == base and job.at_s > last]
        if not new:
            continue
        held[f"last|{base}"] = max(job.at_s for job in new)
        held[f"open|{base}"] = held.get(f"open|{base}", 0.0) + len(new)
        load = sum(job.load for job in new) / len(new)
        held[f"load|{base}"] = _moved(held.get(f"load|{base}", load), load)
    return tuple(sorted(held.items()))


def expected(memory: Memory, now_s: float, ahead_s: float = AHEAD_S) -> dict[str, float]:
    """Hosts that the jobs of the next `ahead_s` seconds will keep busy, for each base."""
    held = dict(memory)
    bases = [key.removeprefix("load|") for key in held if key.startswith("load|")]
    return {base: held[f"load|{base}"] * _jobs_between(held, base, now_s, now_s + ahead_s) for base in bases}


def _fold(held: dict[str, float], hour_of_day: int) -> None:
    """End one hour: its counts go into its bucket, for each base that was ever seen."""
    for base in [key.removeprefix("last|") for key in held if key.startswith("last|")]:
        count = held.pop(f"open|{base}", 0.0)
        key = f"hour|{base}|{hour_of_day}"
        held[key] = _moved(held.get(key, 0.0), count)


def _moved(mean: float, newest: float) -> float:
    return mean + WEIGHT * (newest - mean)


def _jobs_between(held: Mapping[str, float], base: str, from_s: float, to_s: float) -> float:
    """Each hour's jobs by the part of the hour that lies in between."""
    total, at_s = 0.0, from_s
    while at_s < to_s:
        hour = at_s // HOUR_S
        end_s = min((hour + 1) * HOUR_S, to_s)
        total += held.get(f"hour|{base}|{int(hour % HOURS)}", 0.0) * (end_s - at_s) / HOUR_S
        at_s = end_s
    return total
