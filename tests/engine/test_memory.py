"""The memory plan: what a limit buys, what it needs at least, and that a training process stays under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mlora_ray.engine import memory_budget
from mlora_ray.engine.memory_budget import (
    PROCESS_BYTES,
    ROW_TOKENS,
    activation_bytes_per_token,
    detect_limit,
    plan_budget,
)
from mlora_ray.errors import JobError, MloraError
from tests.engine.jobs import make_engine, mixed_job, train_all
from tests.engine.models import as_base, stock_model

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
FULL = pytest.mark.full


@pytest.mark.parametrize("limit_gib", [1, 2, 4, 64])
def test_the_parts_add_up_to_the_limit(limit_gib: int) -> None:
    base = as_base(stock_model("Llama"))
    budget = plan_budget(base, limit_gib * GIB)
    parts = budget.base_bytes + budget.process_bytes + budget.activation_bytes + budget.scratch_bytes
    assert parts + budget.adapter_bytes == limit_gib * GIB
    assert min(budget) >= 0
    assert budget.token_budget == ROW_TOKENS
    assert f"memory limit {limit_gib}.0 GiB" in budget.describe()


def test_a_small_limit_buys_a_shorter_row() -> None:
    base = as_base(stock_model("Llama"))
    left = ROW_TOKENS * activation_bytes_per_token(base)  # a third of it pays for a third of the longest row
    fixed = PROCESS_BYTES + base.num_bytes + memory_budget.head_bytes(base)
    budget = plan_budget(base, fixed + left)
    assert base.context.tile <= budget.token_budget < ROW_TOKENS
    assert budget.adapter_bytes > 0
    assert plan_budget(base, fixed + left, token_budget=640).token_budget == 640


def test_adapter_memory_is_at_most_what_is_left() -> None:
    base = as_base(stock_model("Llama"))
    assert plan_budget(base, 4 * GIB, adapter_bytes=5 << 20).adapter_bytes == 5 << 20
    assert plan_budget(base, 4 * GIB, adapter_bytes=1 << 50).adapter_bytes == plan_budget(base, 4 * GIB).adapter_bytes


def test_a_limit_that_is_too_small_says_what_is_needed() -> None:
    base = as_base(stock_model("Llama"))
    with pytest.raises(
        MloraError, match=r"memory limit 0\.10 GiB is too small.*needs 0\.\d\d GiB.*--max-memory"
    ) as error:
        plan_budget(base, GIB // 10)
    needed = float(str(error.value).split("needs ")[1].split(" GiB")[0]) + 0.01
    assert plan_budget(base, int(needed * GIB)).token_budget >= base.context.tile


def test_an_adapter_larger_than_the_adapter_memory_is_refused() -> None:
    engine = make_engine(as_base(stock_model("Llama")), adapter_memory_bytes=1000)
    with pytest.raises(JobError, match="larger than the adapter memory"):
        engine.admit(*mixed_job(0))


def test_detected_limit_is_a_share_of_what_is_there() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < detect_limit() <= memory_budget.SHARE * total


def run_python(code: str, **env: str) -> Any:
    """The JSON that `code` prints last, in a process of its own."""
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


MEASURE = """
import json, sys
from mlora_ray.bases.resolve import resolve_base
from mlora_ray.engine.base_loading import load_base
from mlora_ray.engine.memory_budget import activation_bytes_per_token, head_bytes, process_bytes
from mlora_ray.profiling.measure import peak_bytes
from tests.engine.jobs import make_engine, make_job, random_rows, train_all
from mlora_ray.types import LoraSpec, TrainSpec

dtype, tokens, length = "{dtype}", {tokens}, {length}
base = load_base(resolve_base("smollm2-135m", dtype), threads=1)
loaded = process_bytes()
engine = make_engine(base, memory_limit_bytes={limit}, token_budget=tokens)
train = TrainSpec(max_steps=1, num_epochs=0, batch_size=1, lr_scheduler_type="constant")
for i in range(tokens // length):
    rows = random_rows(i, 1, length, length)
    engine.admit(make_job(f"job{{i}}", LoraSpec(r={rank}), train), rows)
states = sum(t.state_bytes for t in engine._trainings.values())
open_steps = sum(t.layout.size * (4 + base.head_VD.element_size()) for t in engine._trainings.values())
train_all(engine)
peak = peak_bytes()
print(json.dumps(dict(
    loaded=loaded, peak=peak, per_token=(peak - loaded - states - open_steps - head_bytes(base)) / tokens,
    bound=activation_bytes_per_token(base), planned=engine.budget.activation_bytes, head=head_bytes(base),
)))
"""


@pytest.mark.base135m
@pytest.mark.parametrize(
    ("dtype", "length"),
    [("bfloat16", 992), pytest.param("bfloat16", 64, marks=FULL), pytest.param("float32", 992, marks=FULL)],
)
def test_activations_are_within_the_bound(dtype: str, length: int) -> None:
    """Growth of the process over the loaded base, less the states, in one packed row.

    992 tokens are the longest sequence that keeps its scores.
    """
    code = MEASURE.format(dtype=dtype, tokens=ROW_TOKENS // length * length, length=length, limit=16 * GIB, rank=4)
    got = run_python(code)
    print({name: f"{value / 1e6:.3f} MB" for name, value in got.items()})
    assert got["per_token"] <= got["bound"]
    assert got["loaded"] <= PROCESS_BYTES + 1.4 * 270e6 * (1 if dtype == "bfloat16" else 2)


@pytest.mark.full
@pytest.mark.base135m
def test_a_training_process_stays_under_its_limit() -> None:
    """4 GB and more adapters than fit: the rest waits on disk."""
    limit = 4_000_000_000
    got = run_python(MEASURE.format(dtype="bfloat16", tokens=512, length=8, limit=limit, rank=32))
    print({name: f"{value / 1e6:.1f} MB" for name, value in got.items()})
    assert got["peak"] <= limit


def test_pages_are_removed_with_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    base = as_base(stock_model("Llama"))
    engine = make_engine(base, adapter_memory_bytes=600_000, page_steps=1)
    for i in range(4):
        spec, rows = mixed_job(i)
        engine.admit(spec, rows._replace(tokens=rows.tokens % 320))
    train_all(engine)
    assert engine.num_page_outs
    folders = list(tmp_path.glob("mlora-pages-*"))
    assert len(folders) == 1
    assert list(folders[0].iterdir())
    engine.close()
    assert not list(tmp_path.glob("mlora-pages-*"))
