"""What the report shows, read from a run directory once and checked here: charts and tables only draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlora_ray.errors import StorageError
from mlora_ray.store.run_files import read_json, read_metrics
from mlora_ray.types import JobState
from mlora_ray.types.serialization import number


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedJob:
    """One job. `losses` has one entry a step; None where it was not a number."""

    name: str
    state: str
    error: str
    settings: str  # "r 16 · lr 2e-4 · adamw · batch 8"
    num_steps: int
    total_steps: int
    tokens: int
    seconds: float | None
    train_loss: float | None
    base_eval_loss: float | None
    eval_loss: float | None
    weights_sha256: str
    steps: tuple[int, ...]
    losses: tuple[float | None, ...]
    evals: tuple[tuple[int, float], ...]  # (step, eval loss) while training

    @property
    def change(self) -> float | None:
        """Eval loss after training minus before; negative is better."""
        if self.eval_loss is None or self.base_eval_loss is None:
            return None
        return self.eval_loss - self.base_eval_loss

    @property
    def bad_step(self) -> int | None:
        """The first step whose loss was not a number."""
        return next((step for step, loss in zip(self.steps, self.losses, strict=True) if loss is None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEval:
    """`losses[i][j]`: adapter i on the eval rows of job j; None where there is no number."""

    adapters: tuple[str, ...]
    rows: tuple[str, ...]
    losses: tuple[tuple[float | None, ...], ...]
    base_losses: tuple[float | None, ...]

    def best_of(self, column: int) -> int | None:
        """The adapter with the lowest loss of a column; the column's own adapter wins a tie."""
        held = [
            (loss, self.adapters[at] != self.rows[column], at)
            for at, loss in enumerate(row[column] for row in self.losses)
            if loss is not None
        ]
        return min(held)[2] if held else None

    def num_own_best(self) -> tuple[int, int]:
        """(columns whose own adapter is the best, columns whose own adapter is in the table)."""
        owned = [at for at, name in enumerate(self.rows) if name in self.adapters]
        bests = ((self.best_of(at), at) for at in owned)
        return sum(best is not None and self.adapters[best] == self.rows[at] for best, at in bests), len(owned)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything on the page. `throughput` is (seconds since the start, tokens per second)."""

    title: str
    summary: Mapping[str, Any]
    jobs: tuple[ReportedJob, ...]
    cross_eval: CrossEval | None
    throughput: tuple[tuple[float, float], ...]


def read_run(run_dir: Path) -> ReportData:
    """Read a run directory. Raises StorageError when there is no summary.json or a file in it is broken."""
    summary = read_json(run_dir / "summary.json")
    if not summary:
        raise StorageError(f"{run_dir}: no summary.json, so it is not a finished run's directory")
    try:
        errors = {held["name"]: str(held["error"]) for held in summary.get("failed") or ()}
        jobs = tuple(_read_job(run_dir, held, errors.get(held["name"], "")) for held in summary.get("jobs") or ())
        return ReportData(
            title=run_dir.resolve().name,
            summary=summary,
            jobs=jobs,
            cross_eval=_cross_eval(summary.get("cross_eval")),
            throughput=_throughput(summary.get("throughput") or ()),
        )
    except (KeyError, TypeError) as error:
        raise StorageError(f"{run_dir / 'summary.json'}: not as expected: {error!r}") from error


def _read_job(run_dir: Path, held: Mapping[str, Any], error: str) -> ReportedJob:
    folder = run_dir / held["name"]
    metrics, spec = read_metrics(folder / "metrics.jsonl"), read_json(folder / "job.json").get("spec") or {}
    eval_ = read_json(folder / "eval.json")
    evals = ((int(m["step"]), number(m.get("eval_loss"))) for m in metrics)
    return ReportedJob(
        name=held["name"],
        state=str(held.get("state") or JobState.QUEUED),
        error=error,
        settings=_settings(spec),
        num_steps=int(held.get("steps") or len(metrics)),
        total_steps=int(spec.get("total_steps") or (metrics[-1]["step"] if metrics else 0)),
        tokens=int(held.get("tokens") or 0),
        seconds=number(held.get("seconds")),
        train_loss=number(held.get("train_loss")),
        base_eval_loss=_first(held.get("base_eval_loss"), (eval_.get("base") or {}).get("loss")),
        eval_loss=_first(held.get("eval_loss"), (eval_.get("adapter") or {}).get("loss")),
        weights_sha256=str(held.get("weights_sha256") or ""),
        steps=tuple(int(m["step"]) for m in metrics),
        losses=tuple(number(m.get("loss")) for m in metrics),
        evals=tuple((step, loss) for step, loss in evals if loss is not None),
    )


def _settings(spec: Mapping[str, Any]) -> str:
    lora, train = spec.get("lora") or {}, spec.get("train") or {}
    parts = [f"r {lora['r']}"] if "r" in lora else []
    parts += [f"lr {train['learning_rate']:.3g}"] if "learning_rate" in train else []
    parts += [str(train["optim"])] if "optim" in train else []
    parts += [f"batch {train['batch_size']}"] if "batch_size" in train else []
    return " · ".join(parts)


def _first(*values: Any) -> float | None:
    return next((held for held in map(number, values) if held is not None), None)


def _cross_eval(held: Mapping[str, Any] | None) -> CrossEval | None:
    if not held or not held.get("adapters") or not held.get("rows"):
        return None
    rows = tuple(str(name) for name in held["rows"])
    base = tuple(number(loss) for loss in held.get("base_loss") or ())
    return CrossEval(
        adapters=tuple(str(name) for name in held["adapters"]),
        rows=rows,
        losses=tuple(tuple(number(loss) for loss in row) for row in held["loss"]),
        base_losses=base if len(base) == len(rows) else (None,) * len(rows),
    )


def _throughput(samples: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, float], ...]:
    pairs = ((number(sample.get("t_s")), number(sample.get("tokens_per_s"))) for sample in samples)
    return tuple(sorted((at, rate) for at, rate in pairs if at is not None and rate is not None))
