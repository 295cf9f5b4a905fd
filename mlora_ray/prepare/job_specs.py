"""Everything before training: the base, the rows, the targets; all mistakes at once. And what it will cost."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypedDict

from mlora_ray.bases import target_modules
from mlora_ray.bases.linear_shapes import BaseShapes, base_shapes, num_lora_parameters, state_bytes
from mlora_ray.bases.resolve import resolve_base
from mlora_ray.config.job_file import JobEntry, JobFile
from mlora_ray.data import batch_sampler
from mlora_ray.display.numbers import count
from mlora_ray.errors import InputError, Mistake
from mlora_ray.prepare.job_rows import RowsKey, RowsOfJobs, reading_mistakes, rows_key
from mlora_ray.types import BaseSpec, JobSpec, LoraSpec, RowsRef

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import PreTrainedTokenizerBase

# Measured on one thread of a busy machine, bfloat16: 204 tokens/s of a 135M base and 17,000 of a base of 0.14M.
# An estimate for two threads: the work of the weights halves, what a token costs beside it does not.
PARAMETERS_PER_S = 2 * 204 * 134.5e6
BESIDE_S = 5e-5


def prepare(job_file: JobFile, data_dir_uri: str | None) -> list[JobSpec]:
    """Specs ready to train; tokenised rows go into `data_dir_uri` (any fsspec URL), or nowhere if it is None.

    Raises InputError with every mistake of the job file's fields, the base, the rows and the targets; StorageError if
    rows cannot be written.
    """
    found = list(job_file.mistakes)
    if not job_file.base:
        raise InputError(found + reading_mistakes(job_file))
    try:
        base = resolve_base(job_file.base, job_file.dtype)
        tokenizer, shapes = _opened(base)
    except InputError as error:
        of_base = [_at_base(job_file, m) for m in error.mistakes]
        raise InputError(found + of_base + reading_mistakes(job_file)) from error
    rows = RowsOfJobs(job_file, tokenizer, shapes, None if found else data_dir_uri)
    found += target_mistakes(job_file, shapes)
    for job in job_file.jobs:
        rows.prepare(job)
    found += rows.mistakes
    if found:
        raise InputError(found)
    return [_job_spec(job, base, rows.refs) for job in job_file.jobs]


def _at_base(job_file: JobFile, mistake: Mistake) -> Mistake:
    """The mistake at the line of `base` in the job file."""
    is_named = mistake.file in (job_file.base, mistake.value)
    allowed = mistake.allowed if is_named else f"{mistake.allowed} ({mistake.file})"
    return dataclasses.replace(mistake, file=job_file.path, line=job_file.base_line, allowed=allowed)


def _opened(base: BaseSpec) -> tuple[PreTrainedTokenizerBase, BaseShapes]:
    """The base's tokenizer and shapes; files that transformers cannot use are a mistake of the input."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base.path, local_files_only=True), base_shapes(base.path)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        allowed = f"a causal language model and tokenizer that transformers can load without remote code: {said}"
        raise InputError([Mistake(file=base.path, field="base", value=base.name, allowed=allowed)]) from error


def _job_spec(job: JobEntry, base: BaseSpec, refs: dict[RowsKey, RowsRef]) -> JobSpec:
    train_rows = refs[rows_key(job, job.train_path)]
    return JobSpec(
        name=job.name,
        base=base,
        lora=job.lora,
        train=job.train,
        train_rows=train_rows,
        eval_rows=refs[rows_key(job, job.eval_path)] if job.eval_path else None,
        total_steps=batch_sampler.total_steps(job.train, train_rows.num_rows),
        tenant=job.tenant,
        priority=job.priority,
        deadline_at_s=job.deadline_at_s,
        device_type=job.device_type,
    )


def target_mistakes(job_file: JobFile, shapes: BaseShapes) -> list[Mistake]:
    """Targets that match nothing, layers that do not exist, ranks above a dimension; each LoraSpec once."""
    by_spec: dict[LoraSpec, list[JobEntry]] = {}
    for job in job_file.jobs:
        by_spec.setdefault(job.lora, []).append(job)
    found: list[Mistake] = []
    for lora, jobs in by_spec.items():
        others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        for field, value, allowed in _wrong_targets(lora, shapes.linears):
            where = f"job {jobs[0].name}{others}: {field}"
            found.append(
                Mistake(file=job_file.path, line=jobs[0].line_of(field), field=where, value=value, allowed=allowed)
            )
    return found


def _wrong_targets(lora: LoraSpec, linears: dict[str, tuple[int, int]]) -> list[tuple[str, str, str]]:
    """(field, value, allowed) of each mistake in `lora`."""
    existing = ", ".join(target_modules.short_names(linears))
    unknown = [t for t in lora.target_modules if not target_modules.select_targets(_only(t), linears)]
    if unknown:
        return [("target_modules", t, f"all-linear, or what the base has: {existing}") for t in unknown]
    layers = target_modules.layer_indices(linears)
    wrong = [i for i in lora.layers_to_transform if i not in layers]
    if wrong:
        allowed = f"layers {layers[0]} to {layers[-1]}" if layers else "nothing: the base has no numbered layers"
        return [("layers_to_transform", str(i), allowed) for i in wrong]
    chosen = target_modules.select_targets(lora, linears)
    if not chosen:
        value = f"{', '.join(lora.target_modules)} in layers {', '.join(map(str, lora.layers_to_transform))}"
        return [("target_modules", value, f"at least one module; the base has: {existing}")]
    out = [
        (
            "rank_pattern",
            pattern,
            f"a pattern that matches an adapted module: {', '.join(target_modules.short_names(chosen))}",
        )
        for pattern in target_modules.unmatched_patterns(lora, chosen)
    ]
    return out + _wrong_ranks(lora, chosen, linears)


def _wrong_ranks(
    lora: LoraSpec, chosen: dict[str, int], linears: dict[str, tuple[int, int]]
) -> list[tuple[str, str, str]]:
    """The rank furthest above its module's smaller side: one of `r`, one of `rank_pattern`."""
    out: list[tuple[str, str, str]] = []
    by_pattern = {name for name, rank in chosen.items() if rank != lora.r}
    for field, names in (("r", chosen.keys() - by_pattern), ("rank_pattern", by_pattern)):
        over = {name: chosen[name] - min(linears[name]) for name in chosen if name in names}
        name = max(over, key=over.__getitem__, default="")
        if name and over[name] > 0:
            num_in, num_out = linears[name]
            allowed = f"at most {min(num_in, num_out)}, the smaller side of {name} ({num_in} x {num_out})"
            out.append((field, str(chosen[name]), allowed))
    return out


def _only(target: str) -> LoraSpec:
    return LoraSpec(target_modules=(target,))


class JobCost(TypedDict):
    name: str
    rows: int
    eval_rows: int
    row_tokens: int
    target_tokens: int
    longest_row: int
    truncated: int
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
    tokens_per_s: float
    seconds: float
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
        tokens_per_s=round(rate, 1),
        seconds=round(trained / rate, 1),
        jobs=jobs,
    )


def _job_cost(spec: JobSpec, lora_parameters: int) -> JobCost:
    rows, held_out = spec.train_rows, spec.eval_rows
    passes = spec.total_steps / batch_sampler.steps_per_epoch(spec.train, rows.num_rows)
    return JobCost(
        name=spec.name,
        rows=rows.num_rows,
        eval_rows=held_out.num_rows if held_out else 0,
        row_tokens=rows.num_tokens,
        target_tokens=rows.num_target_tokens,
        longest_row=rows.max_row_tokens,
        truncated=rows.num_truncated + (held_out.num_truncated if held_out else 0),
        steps=spec.total_steps,
        trained_tokens=round(passes * rows.num_tokens),
        lora_parameters=lora_parameters,
        adapter_bytes=state_bytes(spec),
    )


def check_table(report: CheckReport) -> Table:
    """The report for a terminal."""
    from rich.table import Table

    total = (
        f"{report['steps']} steps, {report['trained_tokens']} tokens: about {report['seconds']:.0f} s "
        f"at {report['tokens_per_s']:.0f} tokens/s. "
        f"Memory without activations: base {report['base_bytes'] / 1e6:.0f} MB, "
        f"adapters {report['adapter_bytes'] / 1e6:.1f} MB; a step's activations come on top. "
        f"{report['truncated']} rows cut to max_length."
    )
    table = Table(title=f"{report['base']} ({report['dtype']}), {count(len(report['jobs']), 'job')}", caption=total)
    table.add_column("job")
    for column in ("rows", "eval", "longest", "cut", "steps", "tokens", "adapter MB"):
        table.add_column(column, justify="right")
    for job in report["jobs"]:
        cells = (job["rows"], job["eval_rows"], job["longest_row"], job["truncated"], job["steps"])
        megabytes = f"{job['adapter_bytes'] / 1e6:.2f}"
        table.add_row(job["name"], *map(str, cells), str(job["trained_tokens"]), megabytes)
    return table
