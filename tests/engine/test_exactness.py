"""One adapter's bits never depend on its company: solo, grouped, reordered, interrupted, paged, beside a broken one.

Each (base, dtype, threads) is compared with itself, in a process of its own (scenarios.py).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlora_ray.engine.engine import StepFailure
from mlora_ray.errors import JobError
from mlora_ray.types import StepReport
from tests.engine.jobs import make_engine, mixed_job, random_rows, renamed, train_all
from tests.engine.models import as_base, stock_model

ROOT = Path(__file__).parents[2]
LIMIT_S = 840  # two threads on a machine that is busy with other things wait for each other at every kernel
pytestmark = pytest.mark.timeout(LIMIT_S + 60)
FULL = pytest.mark.full
VARIANTS = [
    ("bfloat16", 1),
    ("float32", 2),
    pytest.param("bfloat16", 2, marks=FULL),
    pytest.param("float32", 1, marks=FULL),
]
SCENARIOS = [
    *(f"neighbours {n}" for n in (1, 3, 7, 31)),
    *("order reversed", "order shuffled", "admitted late", "interrupted", "paged"),
    *("token budget 1024", "token budget 64", "row sizes change"),
]
ERRORS = {
    "nan_weights": "loss is nan at step 1",
    "inf_loss": "loss is",
    "exploding_rate": "at step 2",
    "exception": "IndexError",
}


@functools.cache
def ran(base: str, dtype: str, threads: int, *options: str) -> Any:
    """What scenarios.py printed; run once. `options`: what else it is told."""
    command = [sys.executable, "-m", "tests.engine.scenarios", base, dtype, str(threads), *options]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def assert_same(result: Any, hashes: dict[str, str]) -> None:
    alone = result["scenarios"]["alone"]
    compared = [name for name in hashes if name in alone]
    assert compared
    different = [name for name in compared if hashes[name] != alone[name]]
    assert not different, f"{len(different)} of {len(compared)} differ from the solo run: {different}"


@pytest.mark.parametrize(("dtype", "threads"), VARIANTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_same_bits_in_any_company(scenario: str, dtype: str, threads: int) -> None:
    result = ran("tiny-llama", dtype, threads)
    assert len(set(result["scenarios"]["alone"].values())) == 32
    assert_same(result, result["scenarios"][scenario])


@pytest.mark.parametrize(("dtype", "threads"), VARIANTS)
@pytest.mark.parametrize("kind", ERRORS)
def test_a_broken_neighbour_fails_alone(kind: str, dtype: str, threads: int) -> None:
    result = ran("tiny-llama", dtype, threads)
    assert_same(result, result["bad"][kind]["hashes"])
    errors = result["bad"][kind]["errors"]
    assert len(errors) == 1
    assert errors[0].startswith("bad: ")
    assert ERRORS[kind] in errors[0]


@pytest.mark.base135m
def test_same_bits_on_the_real_base_beside_seven() -> None:
    result = ran("smollm2-135m", "bfloat16", 1, "--short")
    assert len(set(result["scenarios"]["alone"].values())) == 2
    assert_same(result, result["scenarios"]["neighbours 7"])


@pytest.mark.full
@pytest.mark.base135m
@pytest.mark.parametrize(("dtype", "threads"), [("bfloat16", 1), ("bfloat16", 2), ("float32", 1), ("float32", 2)])
def test_same_bits_on_the_real_base(dtype: str, threads: int) -> None:
    result = ran("smollm2-135m", dtype, threads)
    assert {f"neighbours {n}" for n in (1, 3, 31)} <= set(result["scenarios"])
    for hashes in result["scenarios"].values():
        assert_same(result, hashes)
    assert_same(result, result["bad"]["nan_weights"]["hashes"])
    assert len(result["bad"]["nan_weights"]["errors"]) == 1


@pytest.mark.parametrize("architecture", ["Qwen3", "Gemma2", "Phi", "GPTNeoX", "Glm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_other_architectures(architecture: str, dtype: torch.dtype) -> None:
    base = as_base(stock_model(architecture, dtype))
    jobs = [mixed_job(i) for i in (0, 3, 4, 7)]
    jobs = [(spec, random_rows(i, 12, 3, 60, vocab=320)) for i, (spec, _) in enumerate(jobs)]
    jobs = [(_all_linear(spec), rows) for spec, rows in jobs]
    hashes = []
    for group in [jobs, *([job] for job in jobs)]:
        engine = make_engine(base)
        for spec, rows in group:
            engine.admit(spec, rows)
        assert not [r for r in train_all(engine) if isinstance(r, StepFailure)]
        hashes.append({spec.name: engine.state(spec.name).sha256() for spec, _ in group})
    for alone in hashes[1:]:
        for name, sha in alone.items():
            assert hashes[0][name] == sha, name


def _all_linear(spec: Any) -> Any:
    import dataclasses

    lora = dataclasses.replace(spec.lora, target_modules=("all-linear",), rank_pattern=())
    return dataclasses.replace(spec, lora=lora)


def test_an_idle_adapter_is_not_touched() -> None:
    """Neither weight decay nor moments move while only neighbours have nano-batches in the row."""
    base = as_base(stock_model("Llama"))
    engine = make_engine(base, token_budget=16)
    for name in ("a", "b"):
        spec, _ = mixed_job(0)
        engine.admit(renamed(spec, name, weight_decay=0.5, batch_size=1), random_rows(1, 8, 16, 16, vocab=320))
    before = {name: engine.state(name).sha256() for name in ("a", "b")}
    while engine.has_work:
        stepped = {r.job for r in engine.step()}
        after = {name: engine.state(name).sha256() for name in ("a", "b")}
        assert {name for name in after if after[name] != before[name]} == stepped
        before = after


def test_metrics_are_the_same_bits_in_company() -> None:
    """Loss, rate and gradient norm too: verify compares them step by step."""
    base = as_base(stock_model("Llama"))
    reports = []
    for ids in ((0, 1, 2, 3, 4), (2,)):
        engine = make_engine(base)
        for i in ids:
            spec, _ = mixed_job(i)
            engine.admit(spec, random_rows(i, 24, 3, 60, vocab=320))
        mine = [r for r in train_all(engine) if isinstance(r, StepReport) and r.job == "job2"]
        reports.append([(r.step, r.loss, r.learning_rate, r.grad_norm, r.num_tokens) for r in mine])
    assert len(reports[0]) == 5
    assert reports[0] == reports[1]


@pytest.mark.parametrize("token", [320, -1, np.iinfo(np.int32).max])
def test_tokens_outside_the_vocabulary_are_refused_at_once(token: int) -> None:
    engine = make_engine(as_base(stock_model("Llama")))
    rows = random_rows(0, 4, 5, 9, vocab=320)
    rows.tokens[7] = token
    with pytest.raises(JobError, match=f"token id {token}.*0 to 319"):
        engine.admit(mixed_job(0)[0], rows)


def test_a_nano_batch_without_targets_counts_as_zero() -> None:
    """A row with nothing to predict trains alone as it does beside others."""
    base = as_base(stock_model("Llama"))
    hashes = []
    for neighbours in (0, 2):
        engine = make_engine(base)
        for i in range(neighbours + 1):
            spec, _ = mixed_job(i)
            rows = random_rows(i, 6, 9, 9, vocab=320)
            if i == 0:
                rows.is_target[: 9 * 3] = False
            engine.admit(renamed(spec, f"job{i}", batch_size=1), rows)
        assert not [r for r in train_all(engine) if isinstance(r, StepFailure)]
        hashes.append(engine.state("job0").sha256())
    assert hashes[0] == hashes[1]
