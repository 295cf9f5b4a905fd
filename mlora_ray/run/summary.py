"""DIR/summary.json: one run in numbers, built from what each job left in its folder."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlora_ray.store.run_files import read_json, read_metrics
from mlora_ray.types import JobState
from mlora_ray.types.serialization import finite, number

FIGURES = ("device", "started_at", "wall_s", "cpu_s", "tokens_per_s", "peak_bytes", "throughput")  # of a training


def build_summary(
    run_dir: str,
    *,
    command: str,
    device: str,
    base: str,
    started_at: str,
    wall_s: float,
    cpu_s: float,
    peak_bytes: int,
    failed: Mapping[str, str],
    names: Sequence[str],
    cross_eval: Mapping[str, Any] | None = None,
    throughput: Sequence[Mapping[str, float]] = (),
) -> dict[str, Any]:
    """The content of summary.json.

    `names` are the jobs, in the job file's order (those that left no file yet show as QUEUED); `failed` is the error
    text of each failed one by name.
    `started_at` is ISO 8601. `cross_eval` and `throughput` are as in summary.json itself. Raises StorageError when
    a job's file is broken.
    """
    jobs = [_job_entry(Path(run_dir), name, failed.get(name)) for name in names]
    tokens = sum(job["tokens"] for job in jobs)
    samples = while_training(throughput)
    summary = {
        "command": command,
        "base": base,
        "device": device,
        "started_at": started_at,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "num_jobs": len(jobs),
        "succeeded": [job["name"] for job in jobs if job["state"] == JobState.SUCCEEDED],
        "failed": [{"name": name, "error": failed[name]} for name in names if name in failed],
        "tokens": tokens,
        "tokens_per_s": mean_rate(samples) or (tokens / wall_s if wall_s > 0 else None),
        "peak_bytes": peak_bytes,
        "jobs": jobs,
        "cross_eval": dict(cross_eval) if cross_eval else None,
        "throughput": samples,
    }
    cleaned: dict[str, Any] = finite(summary)
    return cleaned


def while_training(throughput: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The samples without the zeros before the first step and without the last rate said again after the end."""
    held = [dict(sample) for sample in throughput]
    rates = [number(sample["tokens_per_s"]) or 0.0 for sample in held]
    first = next((at for at, rate in enumerate(rates) if rate > 0), len(held))
    last = len(held) - 1
    while last > 0 and rates[last] == rates[last - 1]:
        last -= 1
    return held[max(0, first - 1) : last + 1]


def mean_rate(throughput: Sequence[Mapping[str, float]]) -> float | None:
    """Tokens per second over the sampled time: each sample holds since the one before it. None without samples."""
    pairs = [(float(sample["t_s"]), number(sample["tokens_per_s"]) or 0.0) for sample in throughput]
    if not pairs:
        return None
    spans = [(rate, at - before) for (before, _), (at, rate) in itertools.pairwise(pairs) if at > before]
    span_s = sum(span for _, span in spans)
    return sum(rate * span for rate, span in spans) / span_s if span_s > 0 else pairs[-1][1]


def write_summary(run_dir: str, summary: Mapping[str, Any]) -> str:
    """Write DIR/summary.json (strict JSON, replaced in one move) and return its path."""
    path = Path(run_dir) / "summary.json"
    text = json.dumps(finite(dict(summary)), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    held = path.with_suffix(".json.tmp")
    try:
        held.write_text(text, encoding="utf-8")
        os.replace(held, path)
    except OSError:
        held.unlink(missing_ok=True)
        raise
    return str(path)


def with_recorded_figures(recorded: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """`summary` with the figures of the training that another records: nothing was trained since."""
    return dict(summary) | {name: recorded[name] for name in FIGURES if name in recorded}


def _job_entry(run_dir: Path, name: str, error: str | None) -> dict[str, Any]:
    """One job of summary.json. `train_loss` is the mean over the last tenth of its steps, weighted by targets."""
    folder = run_dir / name
    job, eval_ = read_json(folder / "job.json"), read_json(folder / "eval.json")
    steps = read_metrics(folder / "metrics.jsonl")
    return {
        "name": name,
        "state": str(_state(folder, job, error, len(steps))),
        "steps": len(steps),
        "tokens": sum(int(step.get("num_tokens", 0)) for step in steps),
        "dropped_rows": _dropped_rows(job),
        "train_loss": _end_loss(steps),
        "base_eval_loss": number(eval_.get("base", {}).get("loss")),
        "eval_loss": number(eval_.get("adapter", {}).get("loss")),
        "seconds": sum(number(step.get("seconds")) or 0.0 for step in steps),
        "weights_sha256": job.get("weights_sha256", ""),
    }


def _dropped_rows(job: Mapping[str, Any]) -> int:
    """Rows of the job's files that `max_length` left without a target."""
    spec = job.get("spec", {})
    refs = [spec.get(name) or {} for name in ("train_rows", "eval_rows")]
    return sum(int(ref.get("counts", {}).get("num_dropped", 0)) for ref in refs)


def _state(folder: Path, job: Mapping[str, Any], error: str | None, num_steps: int) -> JobState:
    if error is not None:
        return JobState.FAILED
    if job.get("weights_sha256") and (folder / "adapter_model.safetensors").is_file():
        return JobState.SUCCEEDED
    return JobState.PAUSED if num_steps else JobState.QUEUED


def _end_loss(steps: list[dict[str, Any]]) -> float | None:
    last = steps[-max(1, len(steps) // 10) :]
    pairs = [(number(s.get("loss")), int(s.get("num_target_tokens", 1)) or 1) for s in last]
    if not pairs or any(loss is None for loss, _ in pairs):
        return None
    return sum(loss * weight for loss, weight in pairs if loss is not None) / sum(weight for _, weight in pairs)
