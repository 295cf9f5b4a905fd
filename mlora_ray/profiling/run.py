"""What `mlora-ray profile` runs: measure, fit, say how far the models are off, write the profile."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlora_ray.bases.resolve import resolve_base
from mlora_ray.config.step_time_profiles import write_profile
from mlora_ray.errors import InputError, Mistake
from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.profiling import measure
from mlora_ray.profiling.fit import Point, Room, fit_step_time, fitted_s, parts_of
from mlora_ray.profiling.memory import Held, Peak, fit_memory, measure_peaks, predicted_bytes, wanted_peaks
from mlora_ray.profiling.timing import MIN_TOKENS, Timed, grid, time_groups
from mlora_ray.profiling.workload import SEED, Shape
from mlora_ray.types import BaseSpec, MemoryModel

LEAST_TOKENS, MOST_TOKENS = 128, 8192
ADAPTERS, QUICK_ADAPTERS = (1, 2, 4, 8, 16), (1, 4)
QUICK_TOKENS = (128, 512, 2048)
ROW_TOKENS = 128  # of a sequence at most
BOUND = 0.10  # of the measured time or peak: what is off by more is marked
CLOCKS = ("wall", "cpu")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """As the command line gives them. `clock`: the time that is fitted; both are measured."""

    base: str = "smollm2-135m"
    dtype: str = "bfloat16"
    threads: int = 1
    ranks: tuple[int, ...] = (8, 64)
    max_tokens: int = MOST_TOKENS
    repeats: int = 3
    clock: str = "wall"
    is_quick: bool = False
    has_memory: bool = True
    out: str = ""
    command: str = ""
    date: str = ""


def run_profile(options: ProfileOptions, tell: Tell) -> dict[str, Any]:
    """{command, commit, machine, seed, rows, memory_rows, clock, profile}; writes `options.out`.

    `tell` hears a line for each point as it is measured. Raises InputError, MloraError.
    """
    spec = resolve_base(options.base, options.dtype)
    _check(options, spec)
    room, base_bytes, timed = _times(spec, options, tell)
    model = fit_step_time(
        [Point(t.shape, _seconds(t, options.clock)) for t in timed],
        room,
        id=f"{spec.id}-cpu-{options.threads}",
        base=spec.id,
        device_type="cpu",
    )
    peaks = _peaks(spec, room, options, tell) if options.has_memory else []
    memory = fit_memory([p for one, p in peaks if not one.is_held_out], spec.id) if peaks else None
    found = measure.result(
        options.threads,
        SEED,
        [_time_row(model, t, options.clock, room) for t in timed],
        memory_rows=[_memory_row(memory, one, peak) for one, peak in peaks] if memory else [],
        clock=options.clock,
    )
    model = replace(
        model,
        base_bytes=base_bytes,
        memory=memory,
        source=f"{options.command}; {options.clock} time; {found['machine']['cpu']}, {options.threads} threads; "
        f"commit {found['commit']}; {options.date}",
    )
    if options.out:
        write_profile(model, options.out)
    return {**found, "profile": profile_fields(model)}


def profile_fields(model: StepTimeModel) -> dict[str, Any]:
    """The fitted terms, for people and for JSON."""
    names = ["id", "base", "layer_points", "floor_s", "per_adapter_s", "per_rank_s", "per_rank_token_s"]
    names += ["token_budget", "open_ranks", "base_bytes", "source"]
    return {name: getattr(model, name) for name in names} | {"memory": model.memory and asdict(model.memory)}


def _times(spec: BaseSpec, options: ProfileOptions, tell: Tell) -> tuple[Room, int, list[Timed]]:
    """What the engine was given, the base's bytes, and every point."""
    from mlora_ray.engine.adapter_layout import build_layout
    from mlora_ray.engine.base_loading import load_base
    from mlora_ray.engine.engine import Engine
    from mlora_ray.engine.gradient_buffers import open_step_bytes
    from mlora_ray.types import LoraSpec

    base = load_base(spec, "cpu", options.threads)
    with tempfile.TemporaryDirectory() as pages, contextlib.closing(Engine(base, page_dir=pages)) as engine:
        budget = engine.budget
        wanted = grid(_sizes(options, budget.token_budget), _counts(options), options.ranks)
        tell(f"{len(wanted)} group steps of {spec.id}, {options.threads} threads: {budget.describe()}")
        low = min(options.ranks)
        open_bytes = open_step_bytes(build_layout(LoraSpec(r=low), base.groups), base.dtype)
        room = Room(budget.token_budget, budget.scratch_bytes * low / open_bytes)
        repeats = 1 if options.is_quick else options.repeats
        timed = time_groups(engine, wanted, ROW_TOKENS, repeats, lambda one: tell(_line(one)))
        return room, base.num_bytes, timed


def _sizes(options: ProfileOptions, token_budget: int) -> list[int]:
    """Powers of two and the token budget itself, where the curve ends."""
    powers = [1 << at for at in range(LEAST_TOKENS.bit_length() - 1, MOST_TOKENS.bit_length())]
    wanted = {*(QUICK_TOKENS if options.is_quick else powers), token_budget}
    return sorted(size for size in wanted if size <= options.max_tokens)


def _counts(options: ProfileOptions) -> tuple[int, ...]:
    return QUICK_ADAPTERS if options.is_quick else ADAPTERS


def _peaks(spec: BaseSpec, room: Room, options: ProfileOptions, tell: Tell) -> list[tuple[Held, Peak]]:
    wanted = wanted_peaks(room.token_budget, options.ranks, options.is_quick)
    tell(f"{len(wanted)} processes for their peak memory")
    return measure_peaks(
        spec,
        options.threads,
        wanted,
        lambda one, peak: tell(f"{_shown(one.shape)}: peak {peak.peak_bytes / 1e6:,.0f} MB"),
    )


def _time_row(model: StepTimeModel, timed: Timed, clock: str, room: Room) -> dict[str, Any]:
    fitted = fitted_s(model, timed.shape)
    measured = _seconds(timed, clock)
    return {
        **timed.shape._asdict(),
        "packed_rows": timed.packed_rows,
        "model_rows": parts_of(timed.shape, room),
        "wall_s": timed.wall_s,
        "cpu_s": timed.cpu_s,
        "fitted_s": fitted,
        "residual": fitted / measured - 1,
    }


def _memory_row(memory: MemoryModel, one: Held, peak: Peak) -> dict[str, Any]:
    predicted = predicted_bytes(memory, peak)
    return {
        **peak.shape._asdict(),
        "row_tokens": peak.row_tokens,
        "is_held_out": one.is_held_out,
        "own_bytes": peak.own_bytes,
        "load_peak_bytes": peak.load_peak_bytes,
        "peak_bytes": peak.peak_bytes,
        "predicted_bytes": predicted,
        "residual": predicted / peak.peak_bytes - 1,
    }


def _seconds(timed: Timed, clock: str) -> float:
    return timed.cpu_s if clock == "cpu" else timed.wall_s


def _line(timed: Timed) -> str:
    return f"{_shown(timed.shape)}: {timed.wall_s:.3f} s wall, {timed.cpu_s:.3f} s CPU, {timed.packed_rows} rows"


def _shown(shape: Shape) -> str:
    return f"{shape.tokens:,} tokens of {shape.num_adapters} adapters, r={shape.lora_rank}"


def _check(options: ProfileOptions, spec: BaseSpec) -> None:
    """Raises InputError with every mistake, before anything is measured."""
    from mlora_ray.bases.linear_shapes import base_shapes

    shapes = base_shapes(spec.path)
    most = min(min(pair) for pair in shapes.linears.values())
    wrong = [str(r) for r in options.ranks if not 1 <= r <= most]
    least = max(ADAPTERS) * MIN_TOKENS
    checks = [
        (not options.ranks or bool(wrong), "--ranks", ",".join(wrong), f"1 to {most}, what {spec.name}'s layers allow"),
        (options.max_tokens < 2 * least, "--max-tokens", str(options.max_tokens), f"at least {2 * least}"),
        (options.clock not in CLOCKS, "--clock", options.clock, f"one of {', '.join(CLOCKS)}"),
        (
            options.clock == "cpu" and options.threads > 1,
            "--clock",
            options.clock,
            f"wall where --threads is {options.threads}: CPU seconds of several threads are no time of a step",
        ),
        (
            bool(options.out) and not _is_writable(options.out),
            "--out",
            options.out,
            "a file in a directory that is there",
        ),
    ]
    mistakes = [Mistake(file="profile", field=f, value=v, allowed=why) for is_wrong, f, v, why in checks if is_wrong]
    if mistakes:
        raise InputError(mistakes)


def _is_writable(path: str) -> bool:
    return Path(path).parent.is_dir() and not Path(path).is_dir()


def numbers(field: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between. Raises InputError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        allowed = "whole numbers with commas between, such as 8,64"
        raise InputError([Mistake(file="profile", field=field, value=text, allowed=allowed)]) from None
