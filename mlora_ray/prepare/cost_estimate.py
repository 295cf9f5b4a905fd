"""What the jobs of a file will cost: tokens, steps, memory, time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypedDict

from mlora_ray.bases.linear_shapes import base_shapes, num_lora_parameters, state_bytes
from mlora_ray.data import batch_sampler
from mlora_ray.display.numbers import count
from mlora_ray.prepare.target_checks import wide_ranks
from mlora_ray.types import JobSpec

if TYPE_CHECKING:
    from rich.table import Table


# Measured on one thread of a busy machine, bfloat16: 204 tokens/s of a 135M base and 17,000 of a base of 0.14M.
# An estimate for two threads: the work of the weights halves, what a token costs beside it does not.
PARAMETERS_PER_S = 2 * 204 * 134.5e6


BESIDE_S = 5e-5


MAX_NOTES = 20


class JobCost(TypedDict):
    name: str
    rows: int
    eval_rows: int
    row_tokens: int
    target_tokens: int
    longest_row: int
    truncated: int
    dropped: int  # rows that max_length leaves without a target
    straddling: int  # rows with a token that begins before a target and reaches into it
    with_start: int  # rows of text that began with the token that the tokenizer puts first
    unread: list[str]  # columns and fields of messages that nothing reads
    sources: list[dict[str, Any]]  # FileCounts of `train`
    steps: int
    trained_tokens: int
    lora_parameters: int
    adapter_bytes: int


class CheckReport(TypedDict):
    base: str
    dtype: str
    base_parameters: int
    base_bytes: int
    adapter_bytes: int
    steps: int
    trained_tokens: int
    truncated: int
    dropped: int
    tokens_per_s: float
    seconds: float
    warnings: list[str]
    jobs: list[JobCost]


def check_report(specs: list[JobSpec], tokens_per_s: float = 0.0) -> CheckReport:
    """What `specs` would run and cost. `tokens_per_s` 0: an estimate for two CPU cores from the base's size.

    Bytes are those of the base's weights and of all adapters (weights and optimizer); activations come on top.
    """
    base = specs[0].base
    shapes = base_shapes(base.path)
    rate = tokens_per_s or 1 / (shapes.num_parameters / PARAMETERS_PER_S + BESIDE_S)
    parameters = {lora: num_lora_parameters(base.path, lora) for lora in {s.lora for s in specs}}
    jobs = [_job_cost(spec, parameters[spec.lora]) for spec in specs]
    trained = sum(j["trained_tokens"] for j in jobs)
    return CheckReport(
        base=base.name,
        dtype=base.dtype,
        base_parameters=shapes.num_parameters,
        base_bytes=shapes.num_parameters * (2 if base.dtype == "bfloat16" else 4),
        adapter_bytes=sum(j["adapter_bytes"] for j in jobs),
        steps=sum(j["steps"] for j in jobs),
        trained_tokens=trained,
        truncated=sum(j["truncated"] for j in jobs),
        dropped=sum(j["dropped"] for j in jobs),
        tokens_per_s=round(rate, 1),
        seconds=round(trained / rate, 1),
        warnings=wide_ranks(specs),
        jobs=jobs,
    )


def _job_cost(spec: JobSpec, lora_parameters: int) -> JobCost:
    rows, held_out = spec.train_rows, spec.eval_rows
    counts = [ref.counts for ref in (rows, held_out) if ref]
    passes = spec.total_steps / batch_sampler.steps_per_epoch(spec.train, rows.num_rows)
    return JobCost(
        name=spec.name,
        rows=rows.num_rows,
        eval_rows=held_out.num_rows if held_out else 0,
        row_tokens=rows.num_tokens,
        target_tokens=rows.num_target_tokens,
        longest_row=rows.max_row_tokens,
        truncated=rows.num_truncated + (held_out.num_truncated if held_out else 0),
        dropped=sum(c.num_dropped for c in counts),
        straddling=sum(c.num_straddling for c in counts),
        with_start=sum(c.num_with_start for c in counts),
        unread=list(dict.fromkeys(name for c in counts for name in c.unread)),
        sources=[dataclasses.asdict(file) for file in rows.counts.files],
        steps=spec.total_steps,
        trained_tokens=round(passes * rows.num_tokens),
        lora_parameters=lora_parameters,
        adapter_bytes=state_bytes(spec),
    )


def _notes(jobs: list[JobCost]) -> Iterator[str]:
    """What a person should know of each job's rows; jobs of the same rows share a line."""
    said: dict[str, list[str]] = {}
    for job in jobs:
        for note in _notes_of(job):
            said.setdefault(note, []).append(job["name"])
    for note, names in said.items():
        yield f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"


def _notes_of(job: JobCost) -> Iterator[str]:
    is_mixed = len(job["sources"]) > 1 or any(file["weight"] != 1 for file in job["sources"])
    for file in job["sources"] if is_mixed else ():
        read = f"{count(file['num_read'], 'row')}, {file['num_dropped']} dropped"
        yield f"{file['source']}: {read}, weight {file['weight']:g}: {file['num_taken']} a pass"
    if job["dropped"]:
        yield f"{count(job['dropped'], 'row')} dropped: no target within max_length"
    if job["straddling"]:
        yield f"{count(job['straddling'], 'row')} with a token that begins before a target and reaches into it: trained"
    if job["with_start"]:
        yield f"{count(job['with_start'], 'row')} began with the token that the tokenizer puts first: one of it is kept"
    if job["unread"]:
        yield f"not read: {', '.join(job['unread'])}"


def check_table(report: CheckReport) -> Table:
    """The report for a terminal."""
    from rich.table import Table

    total = (
        f"{report['steps']} steps, {report['trained_tokens']} tokens: about {report['seconds']:.0f} s "
        f"at {report['tokens_per_s']:.0f} tokens/s. "
        f"Memory without activations: base {report['base_bytes'] / 1e6:.0f} MB, "
        f"adapters {report['adapter_bytes'] / 1e6:.1f} MB; a step's activations come on top. "
        f"{report['truncated']} rows cut to max_length, {report['dropped']} dropped."
        + "".join(f"\nwarning: {one}" for one in report["warnings"])
    )
    notes = list(_notes(report["jobs"]))
    more = [f"… and {len(notes) - MAX_NOTES} more; --json has all"] if len(notes) > MAX_NOTES else []
    total = "\n".join([total, *notes[:MAX_NOTES], *more])
    table = Table(
        title=f"{report['base']} ({report['dtype']}), {count(len(report['jobs']), 'job')}",
        caption=total,
        caption_justify="left",
    )
    table.add_column("job")
    for column in ("rows", "eval", "longest", "cut", "dropped", "steps", "tokens", "adapter MB"):
        table.add_column(column, justify="right")
    for job in report["jobs"]:
        cells = (job["rows"], job["eval_rows"], job["longest_row"], job["truncated"], job["dropped"], job["steps"])
        megabytes = f"{job['adapter_bytes'] / 1e6:.2f}"
        table.add_row(job["name"], *map(str, cells), str(job["trained_tokens"]), megabytes)
    return table
