"""Paging on storage that fails: a job whose page is lost fails alone, a page that cannot be written stays in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import Base
from mlora_ray.engine.engine import Engine, StepFailure
from mlora_ray.engine.engine_job import EngineJob
from tests.engine.jobs import make_engine, mixed_job, random_rows, renamed, train_all
from tests.engine.models import as_base, stock_model


@pytest.fixture(scope="module")
def base() -> Base:
    return as_base(stock_model("Llama"))


def _paged(base: Base, page_dir: Path, num_jobs: int = 4) -> Engine:
    spec, _ = mixed_job(0)
    one = 12 * make_engine(base).layout(spec).size
    engine = make_engine(base, adapter_memory_bytes=2 * one, page_dir=str(page_dir), page_steps=1)
    jobs = [(renamed(spec, f"job{i}", seed=i), random_rows(i, 6, 3, 20, vocab=320)) for i in range(num_jobs)]
    for spec, rows in jobs:
        engine.admit(spec, rows)
    return engine


def test_pages_that_cannot_be_written(base: Base, tmp_path: Path) -> None:
    blocked = tmp_path / "pages"
    blocked.write_text("a file where the directory should be")
    engine = _paged(base, blocked)
    names = engine.jobs
    finished: list[str] = []
    for _ in range(200):
        assert not [r for r in engine.step() if isinstance(r, StepFailure)]
        for name in [n for n in names if n not in finished and engine.is_done(n)]:
            engine.evict(name)  # as a host does: what is finished makes room
            finished.append(name)
        if len(finished) == len(names):
            break
    assert sorted(finished) == sorted(names)
    assert engine.num_page_outs == 0


def test_a_lost_page_fails_its_job_alone(base: Base, tmp_path: Path) -> None:
    engine = _paged(base, tmp_path)
    for _ in range(50):
        if list(tmp_path.glob("*.safetensors")):
            break
        engine.step()
    page = next(iter(tmp_path.glob("*.safetensors")))
    page.write_bytes(b"torn")
    failures = [r for r in train_all(engine) if isinstance(r, StepFailure)]
    assert [f.job for f in failures] == [page.stem]
    assert "page cannot be read" in failures[0].error


def test_a_device_that_holds_fewer_states_than_planned(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second state does not fit beside the first: it waits its turn, and nobody fails."""
    engine = _paged(base, tmp_path)
    fresh_state = EngineJob.fresh_state

    def one_at_a_time(training: EngineJob, device: str) -> AdapterState:
        if engine._pager._resident:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return fresh_state(training, device)

    monkeypatch.setattr(EngineJob, "fresh_state", one_at_a_time)
    names, outcomes = engine.jobs, train_all(engine)
    assert not [o for o in outcomes if isinstance(o, StepFailure)]
    assert all(engine.is_done(name) for name in names)


def test_a_state_that_does_not_fit_alone_fails_alone(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _paged(base, tmp_path)
    fresh_state = EngineJob.fresh_state

    def not_the_first(training: EngineJob, device: str) -> AdapterState:
        if training.spec.name == "job0":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return fresh_state(training, device)

    monkeypatch.setattr(EngineJob, "fresh_state", not_the_first)
    failures = [o for o in train_all(engine) if isinstance(o, StepFailure)]
    assert [f.job for f in failures] == ["job0"]
    assert "its state does not fit into memory alone" in failures[0].error
