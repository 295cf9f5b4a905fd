"""Targets, layers and patterns that fit the base, or a mistake each; and ranks that are more than a layer can use."""

from __future__ import annotations

from mlora_ray.bases import target_modules
from mlora_ray.bases.linear_shapes import BaseShapes, base_shapes
from mlora_ray.config.job_file import JobFile, JobFileEntry
from mlora_ray.display.numbers import count
from mlora_ray.errors import Mistake
from mlora_ray.prepare.pattern_time import slow_patterns
from mlora_ray.types import JobSpec, LoraSpec


def target_mistakes(job_file: JobFile, shapes: BaseShapes) -> list[Mistake]:
    """Targets that match nothing, layers that do not exist, patterns without a module; each LoraSpec once."""
    by_spec: dict[LoraSpec, list[JobFileEntry]] = {}
    for job in job_file.jobs:
        by_spec.setdefault(job.lora, []).append(job)
    found: list[Mistake] = []
    slow = slow_patterns({pattern for lora in by_spec for _, pattern in _patterns_of(lora)}, list(shapes.linears))
    for lora, jobs in by_spec.items():
        first, others = jobs[0], f"; {count(len(jobs) - 1, 'more job')} the same" if len(jobs) > 1 else ""
        found += [
            Mistake(
                file=job_file.path,
                line=first.line_of(field),
                job=first.name,
                field=field,
                value=value,
                allowed=allowed + others,
            )
            for field, value, allowed in _too_slow(lora, slow) or _wrong_targets(lora, shapes.linears)
        ]
    return found


def _patterns_of(lora: LoraSpec) -> list[tuple[str, str]]:
    """(field, pattern) of everything that is matched with the names of the base."""
    listed = {"target_modules": lora.target_modules, "exclude_modules": lora.exclude_modules}
    listed |= {"layers_pattern": lora.layers_pattern, "rank_pattern": tuple(dict(lora.rank_pattern))}
    listed |= {"alpha_pattern": tuple(dict(lora.alpha_pattern))}
    return [(field, pattern) for field, patterns in listed.items() for pattern in patterns]


def _too_slow(lora: LoraSpec, slow: list[str]) -> list[tuple[str, str, str]]:
    allowed = "a regular expression that ends: this one tries too many ways to match the base's module names"
    return [(field, pattern, allowed) for field, pattern in _patterns_of(lora) if pattern in slow]


def _wrong_targets(lora: LoraSpec, linears: dict[str, tuple[int, int]]) -> list[tuple[str, str, str]]:
    """(field, value, allowed) of each mistake in `lora`."""
    existing = ", ".join(target_modules.short_names(linears))
    unknown = [t for t in lora.target_modules if not target_modules.select_targets(_only(t), linears)]
    if unknown:
        return [("target_modules", t, f"all-linear, or what the base has: {existing}") for t in unknown]
    layers = target_modules.layer_indices(linears, lora.layers_pattern)
    if lora.layers_pattern and not layers:
        lists = ", ".join(target_modules.layer_lists(linears)) or "none"
        return [("layers_pattern", ", ".join(lora.layers_pattern), f"the base's list of layers; it has {lists}")]
    wrong = [i for i in lora.layers_to_transform if i not in layers]
    if wrong:
        allowed = f"layers {layers[0]} to {layers[-1]}" if layers else "left out: the base has no numbered layers"
        return [("layers_to_transform", str(i), allowed) for i in wrong]
    return _wrong_patterns(lora, linears)


def _wrong_patterns(lora: LoraSpec, linears: dict[str, tuple[int, int]]) -> list[tuple[str, str, str]]:
    existing = ", ".join(target_modules.short_names(linears))
    excluding = [(name,) for name in lora.exclude_modules]
    if idle := [name for (name,) in excluding if not any(target_modules.is_named((name,), m) for m in linears)]:
        allowed = f"a list of what the base has, or a regular expression for whole module names: {existing}"
        return [("exclude_modules", name, allowed) for name in idle]
    chosen = target_modules.select_targets(lora, linears)
    if not chosen:
        inside = f" in layers {', '.join(map(str, lora.layers_to_transform))}" if lora.layers_to_transform else ""
        without = f" without {', '.join(lora.exclude_modules)}" if lora.exclude_modules else ""
        value = f"{', '.join(lora.target_modules)}{inside}{without}"
        return [("target_modules", value, f"at least one module; the base has {existing}")]
    allowed = f"a mapping from patterns that match adapted modules: {', '.join(target_modules.short_names(chosen))}"
    return [
        (field, pattern, allowed)
        for field, patterns in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern))
        for pattern in target_modules.unmatched_patterns(patterns, chosen)
    ]


def wide_ranks(specs: list[JobSpec]) -> list[str]:
    """A sentence for each LoraSpec with ranks above a module's smaller side: what is above it learns nothing more.

    PEFT takes such ranks, and so do we.
    """
    by_spec = {spec.lora: spec for spec in reversed(specs)}
    found = [(spec.name, _widest(lora, base_shapes(spec.base.path).linears)) for lora, spec in by_spec.items()]
    return [f"job={name} {said}" for name, said in reversed(found) if said]


def _widest(lora: LoraSpec, linears: dict[str, tuple[int, int]]) -> str:
    chosen = target_modules.select_targets(lora, linears)
    over = {name: rank - min(linears[name]) for name, rank in chosen.items() if rank > min(linears[name])}
    if not over:
        return ""
    name = max(over, key=over.__getitem__)
    num_in, num_out = linears[name]
    return f"rank {chosen[name]} of {name} ({num_in} x {num_out}) is above {min(linears[name])}, all it can use"


def _only(target: str) -> LoraSpec:
    return LoraSpec(target_modules=(target,))
