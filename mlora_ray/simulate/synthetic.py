"""Arrivals and durations with the statistics published of Microsoft's Philly cluster (Jeon et al., ATC'19).

For tests and for people without the trace: bursty arrivals (a day's rate varies tenfold, and users submit in runs),
durations from minutes to weeks with a median near 20 minutes, nearly all on one device, a few virtual clusters with
most of the work. The same seed gives the same rows.
"""

from __future__ import annotations

import math
import random

NUM_DAYS = 60
JOBS_PER_DAY = 900.0
DAY_SIGMA = 0.9  # of a day's rate
RUN_LENGTH = 6.0  # mean number of jobs that one user submits in a row
RUN_GAP_S = 40.0
DURATION_MU, DURATION_SIGMA = math.log(1200.0), 1.8
LONG_SHARE, LONG_MU, LONG_SIGMA = 0.04, math.log(86400.0), 1.3  # runs of long jobs: most of the device time
DEVICES = ((1, 0.95), (2, 0.006), (4, 0.023), (8, 0.021))
NUM_TENANTS = 14


def synthetic_philly(seed: int, num_days: int = NUM_DAYS) -> list[tuple[float, float, int, str]]:
    """(submit_s, duration_s, num_devices, tenant), sorted by submit time."""
    random_ = random.Random(f"synthetic philly {seed}")
    rows: list[tuple[float, float, int, str]] = []
    for day in range(num_days):
        rate = JOBS_PER_DAY * random_.lognormvariate(-(DAY_SIGMA**2) / 2, DAY_SIGMA)
        num_runs = max(1, round(rate / RUN_LENGTH))
        for _ in range(num_runs):
            rows += _run(random_, day)
    rows.sort()
    first = rows[0][0]
    return [(at - first, duration, devices, tenant) for at, duration, devices, tenant in rows]


def _run(random_: random.Random, day: int) -> list[tuple[float, float, int, str]]:
    """One user's submissions in a row: alike in length and width."""
    at = (day + random_.random()) * 86400.0
    tenant = f"vc{min(int(random_.expovariate(0.45)), NUM_TENANTS - 1):02d}"
    devices = random_.choices([d for d, _ in DEVICES], [share for _, share in DEVICES])[0]
    is_long = random_.random() < LONG_SHARE
    middle = random_.gauss(LONG_MU, LONG_SIGMA) if is_long else random_.gauss(DURATION_MU, DURATION_SIGMA * 0.8)
    rows = []
    for _ in range(1 + int(random_.expovariate(1.0 / (RUN_LENGTH - 1)))):
        duration = math.exp(random_.gauss(middle, DURATION_SIGMA * 0.6))
        rows.append((at, round(min(duration, 60 * 86400.0), 1), devices, tenant))
        at += random_.expovariate(1.0 / RUN_GAP_S)
    return rows
