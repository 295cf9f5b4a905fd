"""`simulate` as a function: reads the trace and profiles, runs the sweep, prints the table, writes the files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlora_ray.config.step_time_profiles import read_profile
from mlora_ray.errors import InputError, Mistake
from mlora_ray.policies.models.step_time import StepTimeModel, StepTimes
from mlora_ray.simulate.sweep import SimulationRun, SweepSettings, expand, run_sweep, table
from mlora_ray.simulate.tables import show_table, write_jobs
from mlora_ray.simulate.traces import DAY_S, Kept, filter_rows, read_text, read_trace
from mlora_ray.simulate.workload import WorkloadSettings

DEFAULT_POLICIES: tuple[str, ...] = (
    "independent",
    "backfill",
    "srpt",
    "las",
    "timeslice",
    "mlora-optimal-fit",
    "mlora-trivial",
    "mlora-fast-fit",
    "tlora",
    "rate-remaining",
    "rate-remaining-no-fusion",
    "rate-remaining-no-preemption",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What the command line says. Several profiles are several bases: jobs choose among them by Zipf."""

    trace: str = "synthetic:philly"
    policies: tuple[str, ...] = DEFAULT_POLICIES
    profiles: tuple[str, ...] = ("h100-llama-3.1-8b",)
    loads: tuple[float, ...] = (0.9,)
    regimes: tuple[float, ...] = (700.0,)
    hosts: int = 16
    windows: int = 3
    jobs: int = 600
    seed: int = 0
    days: float = 1.0
    is_set_b: bool = False
    lengths: str = ""  # a CSV with ContextTokens and GeneratedTokens
    size_sigma: float = 0.0
    is_size_known: bool = True
    is_json: bool = False
    out: str = ""
    command: str = ""


def simulate(options: SimulateOptions, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Run and print; answers the rows. Raises InputError for what the user can mend."""
    _check(options)
    models = [read_profile(name) for name in options.profiles]
    _check_models(models)
    kept = filter_rows(read_trace(options.trace, options.seed), max_s=options.days * DAY_S)
    settings = _settings(options, models)
    runs: list[SimulationRun] = []
    for run in run_sweep(kept.rows, settings, StepTimes(models)):
        runs.append(run if options.out else replace(run, outcome=None))
        if sys.stderr.isatty():
            print(f"\r{len(runs)} simulations", end="", file=sys.stderr, flush=True)
    rows = table(runs)
    notes = _notes(options, kept, models)
    if options.is_json:
        say(json.dumps({"command": options.command, "notes": notes, "rows": rows}))
    else:
        for note in notes:
            say(note)
        show_table(rows)
    if options.out:
        _write(Path(options.out), options, notes, rows, runs)
    return rows


def numbers(field: str, text: str) -> tuple[float, ...]:
    """The numbers of a list with commas. Raises InputError."""
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError as error:
        allowed = "numbers, with commas between"
        raise InputError([Mistake(file="command line", field=field, value=text, allowed=allowed)]) from error


def _check(options: SimulateOptions) -> None:
    limits = {
        "load": ([load for load in options.loads if load], 0.01, 10.0),  # 0: as it is
        "regime": (options.regimes, 1.0, 1e6),
        "hosts": ((options.hosts,), 1, 100_000),
        "windows": ((options.windows,), 1, 10_000),
        "jobs": ((options.jobs,), 1, 1_000_000),
        "days": ((options.days,), 0.001, 10_000),
        "size-sigma": ((options.size_sigma,), 0.0, 5.0),
    }
    mistakes = [
        Mistake(file="command line", field=name, value=str(value), allowed=f"between {low:g} and {high:g}")
        for name, (values, low, high) in limits.items()
        for value in values
        if not low <= value <= high
    ]
    if options.out and (why := _why_no_folder(Path(options.out))):
        mistakes.append(Mistake(file="command line", field="out", value=options.out, allowed=why))
    if mistakes:
        raise InputError(mistakes)


def _why_no_folder(folder: Path) -> str:
    """Before minutes go into simulations: why nothing can be written there, or empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"a directory: {error.strerror}"
    return ""


def _check_models(models: Sequence[StepTimeModel]) -> None:
    """One profile a base, all of one device type: a simulated host is of one type."""
    bases = [m.base for m in models]
    for at, model in enumerate(models):
        allowed = f"one profile a base; {model.base} has two" if model.base in bases[:at] else ""
        if model.device_type != models[0].device_type:
            allowed = f"profiles of one device type; {models[0].id} is of {models[0].device_type or 'any'}"
        if allowed:
            raise InputError([Mistake(file="command line", field="profile", value=model.id, allowed=allowed)])


def _settings(options: SimulateOptions, models: Sequence[StepTimeModel]) -> SweepSettings:
    workload = WorkloadSettings(
        num_jobs=options.jobs,
        num_hosts=options.hosts,
        bases=tuple(m.base or m.id for m in models),
        device_type=models[0].device_type,
        is_set_b=options.is_set_b,
        lengths=read_lengths(options.lengths) if options.lengths else (),
        size_sigma=options.size_sigma,
        is_size_known=options.is_size_known,
    )
    return SweepSettings(
        policies=expand(options.policies),
        loads=tuple(dict.fromkeys(options.loads)),
        regimes=tuple(dict.fromkeys(options.regimes)),
        num_windows=options.windows,
        seed=options.seed,
        workload=workload,
    )


def read_lengths(path: str) -> tuple[float, ...]:
    """Context plus generated tokens of every request of an Azure trace."""
    import csv

    allowed = "a CSV with ContextTokens and GeneratedTokens, whole numbers, together above 0"
    try:
        rows = csv.DictReader(read_text(path).split("\n"))
        lengths = [int(row["ContextTokens"]) + int(row["GeneratedTokens"]) for row in rows]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError([Mistake(file=path, field="lengths", value="", allowed=f"{allowed}: {error!r}")]) from error
    if not lengths or min(lengths) <= 0:
        shown = f"{min(lengths)}" if lengths else "no row"
        raise InputError([Mistake(file=path, field="lengths", value=shown, allowed=allowed)])
    return tuple(map(float, lengths))


def _notes(options: SimulateOptions, kept: Kept, models: Sequence[StepTimeModel]) -> list[str]:
    """What a reader needs to judge the table."""
    taken = ", ".join(f"{name}: {num:,}" for name, num in kept.taken)
    notes = [
        f"trace {options.trace}: {len(kept.rows):,} jobs kept ({kept.share_of_jobs:.0%} of the jobs, "
        f"{kept.share_of_device_time:.0%} of the device time); taken: {taken}",
        f"{options.windows} windows of {options.jobs} jobs from seed {options.seed}, {options.hosts} hosts",
    ]
    for model in models:
        assumed = f"; assumed: {', '.join(model.assumed)}" if model.assumed else ""
        floor = f"t_floor {model.floor_s * 1e3:g} ms, c_a {model.per_adapter_s * 1e3:g} ms"
        notes.append(f"step times {model.id}: {floor}{assumed}")
    return notes


def _write(
    folder: Path, options: SimulateOptions, notes: list[str], rows: list[dict[str, Any]], runs: Sequence[SimulationRun]
) -> None:
    from mlora_ray.simulate.report import write_report

    folder.mkdir(parents=True, exist_ok=True)
    held = {"command": options.command, "notes": notes, "rows": rows}
    (folder / "simulation.json").write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    write_jobs(runs, str(folder / "jobs.parquet"))
    write_report(folder / "report.html", options.command, notes, rows, runs)
