"""Shared by all tests: specs of small jobs, a virtual clock, and a host that trains in no time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve each other on two cores

import numpy as np
import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.types import (
    BaseSpec,
    JobSpec,
    LoraSpec,
    RowsRef,
    StepReport,
    TrainSpec,
)

RAY = {"actors", "benchmarks", "chaos", "deploy", "e2e"}  # folders whose tests start it


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of the workers one gets all that starts Ray; any other file stays together.

    pytest-xdist 3.8 has `--dist loadgroup` for that, but its groups are lost on pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneRayAtATime(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if file.split("/")[1] in RAY else file

    return OneRayAtATime(config, log)


BASE = BaseSpec(name="tiny-llama", path="/nowhere", dtype="float32")


def make_spec(name: str, *, steps: int = 10, save_steps: int = 3, base: BaseSpec = BASE) -> JobSpec:
    """A job whose rows exist in name only: 4 rows of 8 tokens, one row a step."""
    rows = RowsRef(
        uri="",
        sha256="0" * 64,
        source=f"{name}.jsonl",
        num_rows=4,
        num_tokens=32,
        num_target_tokens=16,
        num_truncated=0,
        max_row_tokens=8,
    )
    train = TrainSpec(max_steps=steps, save_steps=save_steps, batch_size=1)
    return JobSpec(name=name, base=base, lora=LoraSpec(r=4), train=train, train_rows=rows, total_steps=steps)


def make_step(job: str, step: int) -> StepReport:
    return StepReport(
        job=job,
        step=step,
        data_epoch=step / 4,
        loss=1.0 / step,
        learning_rate=0.1 / step,
        grad_norm=1.0,
        num_tokens=8,
        num_target_tokens=4,
        seconds=0.01,
    )


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(start_s=1000.0)


def real_spec(folder: Path, name: str, *, eval_rows: bool = False, **train: object) -> JobSpec:
    """A job of 6 steps on the tiny base, its rows written into `folder`."""
    from mlora_ray.bases.resolve import resolve_base
    from mlora_ray.data.tokenized_rows import make_rows, rows_sha256, to_bytes

    rng = np.random.default_rng(sum(map(ord, name)))

    def write(num_rows: int) -> RowsRef:
        pairs = [(rng.integers(5, 300, n).tolist(), [True] * n) for n in rng.integers(3, 20, num_rows)]
        rows = make_rows(pairs)
        path = folder / f"{rows_sha256(rows)}.rows"
        path.write_bytes(to_bytes(rows))
        return RowsRef(
            uri=str(path),
            sha256=rows_sha256(rows),
            source=f"{name}.jsonl",
            num_rows=num_rows,
            num_tokens=len(rows.tokens),
            num_target_tokens=int(rows.num_targets().sum()),
            num_truncated=0,
            max_row_tokens=int(rows.lengths.max()),
        )

    settings = {"max_steps": 6, "batch_size": 2, "save_steps": 2, "learning_rate": 1e-2} | train
    spec = TrainSpec(**settings)  # type: ignore[arg-type]
    return JobSpec(
        name=name,
        base=resolve_base("tiny-llama", "float32"),
        lora=LoraSpec(r=4, lora_dropout=0.1),
        train=spec,
        train_rows=write(8),
        eval_rows=write(4) if eval_rows else None,
        total_steps=spec.max_steps,
    )
