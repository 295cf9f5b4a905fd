"""Run directories as `train` leaves them, with made-up but realistic numbers, for tests of what reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlora_ray.run.summary import build_summary, write_summary

TASKS = (
    "unit-conversion",
    "dates",
    "json-extraction",
    "arithmetic-words",
    "sql",
    "sorting",
    "sentiment",
    "house-style",
)
STARTED_AT = "2026-03-14T15:09:26+00:00"


def make_run(
    run_dir: Path,
    names: Sequence[str] = TASKS,
    *,
    num_steps: int = 120,
    seed: int = 0,
    failed: Mapping[str, str] | None = None,
    nan_from: Mapping[str, int] | None = None,
    has_eval: bool = True,
    has_cross_eval: bool = True,
) -> Path:
    """Write a run of `names` into `run_dir`, summary.json last, and return it.

    A job in `failed` stops at 40% of its steps; one in `nan_from` has NaN losses from that step on.
    """
    rng = np.random.default_rng(seed)
    failed, nan_from = dict(failed or {}), dict(nan_from or {})
    starts, ends = rng.uniform(1.6, 3.4, len(names)), rng.uniform(0.15, 0.9, len(names))
    for at, name in enumerate(names):
        total = max(1, int(num_steps * rng.uniform(0.5, 1.5)))
        done = int(total * 0.4) if name in failed else total
        curve = _curve(rng, starts[at], ends[at], total)[:done]
        curve[nan_from.get(name, total + 1) - 1 :] = math.nan
        evals = (starts[at] * 1.02, float(ends[at] * 1.1)) if has_eval and name not in failed else None
        _write_job(run_dir / name, rng, curve, total, evals)
    cross = _cross(rng, [n for n in names if n not in failed], starts, ends) if has_eval and has_cross_eval else None
    wall_s = 0.05 * num_steps * len(names)
    rates = 1050 + 60 * rng.standard_normal(200).cumsum() / 10 - 700 * np.exp(-np.arange(200) / 4)
    throughput = [{"t_s": wall_s * (i + 1) / 200, "tokens_per_s": float(rate)} for i, rate in enumerate(rates)]
    summary = build_summary(
        str(run_dir), command="mlora-ray train examples/eight.yaml --out runs/demo", device="cpu, 2 threads, bfloat16",
        base="smollm2-135m", started_at=STARTED_AT, wall_s=wall_s, cpu_s=1.9 * wall_s, peak_bytes=1_950_000_000,
        failed=failed, cross_eval=cross, throughput=throughput, names=names,
    )  # fmt: skip
    write_summary(str(run_dir), summary)
    return run_dir


def _curve(rng: np.random.Generator, start: float, end: float, total: int) -> np.ndarray:
    fall = np.exp(-np.linspace(0, rng.uniform(3, 7), total))
    noise = np.exp(rng.uniform(0.08, 0.22) * rng.standard_normal(total))
    return np.asarray((end + (start - end) * fall) * noise)


def _write_job(
    folder: Path, rng: np.random.Generator, curve: np.ndarray, total: int, evals: tuple[float, float] | None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    batch, rank = int(rng.choice([1, 2, 4, 8])), int(rng.choice([4, 8, 16, 32]))
    lines = []
    for step, loss in enumerate(curve.tolist(), start=1):
        line = {"step": step, "epoch": step / total * 3, "loss": loss, "learning_rate": 2e-4 * (1 - step / total)}
        line |= {"grad_norm": 1.1, "num_tokens": batch * 90, "num_target_tokens": batch * 31, "seconds": 0.31}
        if evals and step % max(1, total // 4) == 0:
            line["eval_loss"] = evals[1] + (evals[0] - evals[1]) * math.exp(-6 * step / total)
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    spec = {"name": folder.name, "lora": {"r": rank}, "total_steps": total}
    spec["train"] = {"learning_rate": 2e-4, "optim": "adamw", "batch_size": batch}
    job: dict[str, Any] = {"spec": spec}
    if len(curve) == total:
        job["weights_sha256"] = rng.bytes(32).hex()
        (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "job.json").write_text(json.dumps(job))
    if evals:
        held = {
            name: {"loss": loss, "perplexity": math.exp(loss)}
            for name, loss in zip(("base", "adapter"), evals, strict=True)
        }
        (folder / "eval.json").write_text(json.dumps({"num_rows": 32, "num_target_tokens": 990, **held}))


def _cross(rng: np.random.Generator, names: list[str], starts: np.ndarray, ends: np.ndarray) -> dict[str, Any]:
    base = starts[: len(names)] * 1.02
    loss = base * rng.uniform(0.75, 1.6, (len(names), len(names)))
    np.fill_diagonal(loss, ends[: len(names)] * 1.1)
    return {"adapters": names, "rows": names, "loss": loss.tolist(), "base_loss": base.tolist()}
