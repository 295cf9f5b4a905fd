"""Times of a group step: every one of n adapters takes one optimizer step, T tokens in all, through the real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import NamedTuple

from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.engine import Engine, StepFailure
from mlora_ray.errors import MloraError
from mlora_ray.profiling.measure import Spent, Stopwatch
from mlora_ray.profiling.workload import Shape, group_jobs

MIN_TOKENS = 8  # of an adapter's step


class Timed(NamedTuple):
    """One point: seconds of a group step and the packed rows that it took."""

    shape: Shape
    wall_s: float
    cpu_s: float  # user and system, all threads
    packed_rows: int


def grid(tokens: Iterable[int], adapters: Iterable[int], ranks: Iterable[int]) -> list[Shape]:
    """Every combination in which an adapter's step has `MIN_TOKENS` tokens."""
    sizes, counts = list(tokens), list(adapters)
    return [Shape(t, n, r) for r in ranks for t in sizes for n in counts if t // n >= MIN_TOKENS]


def time_groups(
    engine: Engine, wanted: Iterable[Shape], row_tokens: int, repeats: int, tell: Callable[[Timed], None]
) -> list[Timed]:
    """Every shape in turn. Up to the token budget the median of `repeats` group steps after one that does not count.

    Past it one group step: its nano-batches are no longer than those of smaller shapes, which come before it, so that
    the kernels for them are made. Raises MloraError.
    """
    out = []
    for shape in sorted(wanted, key=lambda s: (s.tokens, s.lora_rank, s.num_adapters)):
        is_short = shape.tokens <= engine.budget.token_budget
        out.append(_time_group(engine, shape, row_tokens, int(is_short), repeats if is_short else 1))
        tell(out[-1])
    return out


def _time_group(engine: Engine, shape: Shape, row_tokens: int, warm_ups: int, repeats: int) -> Timed:
    jobs = group_jobs(engine.base.spec, engine.base.head_VD.shape[0], shape, row_tokens, warm_ups + repeats)
    paged = engine.num_page_outs
    for spec, rows in jobs:
        state = AdapterState.fresh(engine.layout(spec), spec.lora, spec.train)
        state.flat.add_(0.0)  # the pages of its moments are there before the clock
        engine.admit(spec, rows, state=state)
    found = [group_step(engine, [spec.name for spec, _ in jobs]) for _ in range(warm_ups + repeats)][warm_ups:]
    for spec, _ in jobs:
        engine.evict(spec.name)
    if engine.num_page_outs > paged:
        raise MloraError(
            f"{shape.num_adapters} adapters of rank {shape.lora_rank} do not fit into memory together, so the time of "
            f"their step cannot be measured: {engine.budget.describe()}"
        )
    spent = [s for s, _ in found]
    return Timed(shape, median(s.wall_s for s in spent), median(s.cpu_s for s in spent), found[0][1])


def group_step(engine: Engine, names: list[str]) -> tuple[Spent, int]:
    """One optimizer step of every job, and the packed rows it took: who is ready waits for the others."""
    waiting, packed_rows = set(names), 0
    watch = Stopwatch()
    while waiting:
        for report in engine.step():
            if isinstance(report, StepFailure):
                raise MloraError(f"a step that was to be measured failed: {report.error}")
            waiting.discard(report.job)
            engine.hold(report.job)
        packed_rows += 1
    spent = watch.read()
    for name in names:
        engine.unhold(name)
    return spent, packed_rows
