"""From trace rows to jobs: windows, time compression to a load, and the attributes a trace does not have.

Work is anchored: tokens = duration * devices * the job's own tokens/s alone, so that independent jobs on an empty
cluster take exactly the trace's durations. A window, a seed and the settings give the same jobs for every policy.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from mlora_ray.errors import InputError, Mistake
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.results import SimJob
from mlora_ray.simulate.traces import TraceRow

RANKS_A, RANKS_B = (2, 4, 8, 16), (8, 16, 32, 64)
ROWS = (1, 2, 4, 8)
LENGTH_SIGMA = 0.5  # lognormal, of a job's mean row length
STATE_BYTES_PER_RANK = 2_621_440 * 12  # all linear layers of an 8B base: weights and two moments in fp32
MAX_DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSettings:
    """How rows become jobs."""

    num_jobs: int = 600
    window_days: float = 14.0
    load: float = 0.9  # 0: the trace's own arrivals, uncompressed
    step_tokens: float = 700.0  # mean tokens of a step: the regime
    num_hosts: int = 16
    bases: tuple[str, ...] = ("llama-3.1-8b",)  # jobs choose by Zipf, the first most often
    is_set_b: bool = False
    lengths: tuple[float, ...] = ()  # row lengths to draw from (set B), scaled to the regime
    size_sigma: float = 0.0  # lognormal error of the declared sizes
    is_size_known: bool = True
    has_deadlines: bool = False  # hard ones for a third of the jobs, soft ones for a third
    device_type: str = ""


def hosts_of_bases(settings: WorkloadSettings) -> dict[str, int]:
    """How many hosts each base has: by its share of the work, as Zipf draws it; at least one."""
    weights = _zipf(len(settings.bases))
    left = settings.num_hosts - len(weights)
    if left < 0:
        allowed = f"at least one host for each of the {len(weights)} bases"
        raise InputError([Mistake(file="settings", field="hosts", value=str(settings.num_hosts), allowed=allowed)])
    counts = [1 + int(left * weight / sum(weights)) for weight in weights]
    counts[0] += settings.num_hosts - sum(counts)
    return dict(zip(settings.bases, counts, strict=True))


def make_window(rows: Sequence[TraceRow], settings: WorkloadSettings, step_times: StepTimes, seed: int) -> list[SimJob]:
    """The jobs of one random window. Raises InputError where the trace has no window with enough jobs."""
    random_ = random.Random(f"window {seed}")
    chosen = _sample(rows, settings, random_)
    first = chosen[0].submit_s
    span_s = settings.window_days * 86400.0
    work_s = sum(r.duration_s * r.num_devices for r in chosen)
    stretch = work_s / (settings.num_hosts * settings.load) / span_s if settings.load else 1.0
    return [
        _job(
            f"j{at:04d}", row, (row.submit_s - first) * stretch, settings, step_times, random.Random(f"job {seed} {at}")
        )
        for at, row in enumerate(chosen)
    ]


def _sample(rows: Sequence[TraceRow], settings: WorkloadSettings, random_: random.Random) -> list[TraceRow]:
    """`num_jobs` of a window drawn at random, in the trace's order."""
    times = [r.submit_s for r in rows]
    span_s = settings.window_days * 86400.0
    last = times[-1] - span_s
    for _ in range(MAX_DRAWS if last > 0 else 1):
        start = random_.uniform(times[0], last) if last > 0 else times[0]
        low, high = bisect.bisect_left(times, start), bisect.bisect_right(times, start + span_s)
        if high - low >= settings.num_jobs:
            return [rows[at] for at in sorted(random_.sample(range(low, high), settings.num_jobs))]
    allowed = f"a trace with {settings.num_jobs} jobs in some {settings.window_days:g} days; it has {len(rows)} in all"
    raise InputError([Mistake(file="trace", field="num_jobs", value=str(settings.num_jobs), allowed=allowed)])


def _job(
    name: str, row: TraceRow, submit_s: float, settings: WorkloadSettings, step_times: StepTimes, random_: random.Random
) -> SimJob:
    """One that asks for more devices than its base has asks for those, and takes as much longer."""
    base = random_.choices(settings.bases, _zipf(len(settings.bases)))[0]
    rank = random_.choice(RANKS_B if settings.is_set_b else RANKS_A)
    num_rows = random_.choice(ROWS)
    length = settings.step_tokens / (sum(ROWS) / len(ROWS)) * _length_factor(settings, random_)
    model = step_times.of(base, settings.device_type)
    tokens_s = model.solo_tokens_s(num_rows * length, rank)
    width = min(row.num_devices, hosts_of_bases(settings)[base])
    row = row._replace(duration_s=row.duration_s * row.num_devices / width, num_devices=width)
    tokens = row.duration_s * width * tokens_s
    declared = tokens * random_.lognormvariate(0.0, settings.size_sigma) if settings.size_sigma else tokens
    deadline_s, is_hard = _deadline(row, submit_s, random_)
    return SimJob(
        id=name,
        submit_s=submit_s,
        duration_s=row.duration_s,
        width=width,
        rows=num_rows,
        row_tokens=length,
        lora_rank=rank,
        base=base,
        tenant=row.tenant,
        tokens=tokens,
        solo_tokens_s=tokens_s,
        declared_tokens=declared if settings.is_size_known else None,
        state_bytes=rank * STATE_BYTES_PER_RANK,
        deadline_s=deadline_s if settings.has_deadlines else None,
        is_hard=is_hard and settings.has_deadlines,
    )


def _length_factor(settings: WorkloadSettings, random_: random.Random) -> float:
    """Around 1: lognormal, or drawn from given lengths."""
    if settings.lengths:
        return random_.choice(settings.lengths) * len(settings.lengths) / sum(settings.lengths)
    return random_.lognormvariate(-(LENGTH_SIGMA**2) / 2, LENGTH_SIGMA)


def _deadline(row: TraceRow, submit_s: float, random_: random.Random) -> tuple[float | None, bool]:
    """A third of the jobs have a hard one, a third a soft one."""
    kind, factor = random_.randrange(3), random_.uniform(1.2, 2.0)
    return (None, False) if kind == 2 else (submit_s + factor * row.duration_s, kind == 0)


def _zipf(num: int) -> list[float]:
    return list(itertools.islice((1.0 / (at + 1) for at in itertools.count()), num))
