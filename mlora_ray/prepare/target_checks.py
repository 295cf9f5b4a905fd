"""Targets, ranks and patterns that fit the base, or a mistake each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlora_ray.bases import target_modules
from mlora_ray.bases.linear_shapes import BaseShapes
from mlora_ray.config.job_file import JobFile, JobFileEntry
from mlora_ray.errors import Mistake
from mlora_ray.types import LoraSpec

if TYPE_CHECKING:
    pass


def target_mistakes(job_file: JobFile, shapes: BaseShapes) -> list[Mistake]:
    """Targets that match nothing, layers that do not exist, ranks above a dimension; each LoraSpec once."""
    by_spec: dict[LoraSpec, list[JobFileEntry]] = {}
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
