"""Paging on storage that fails: a job whose page is lost fails alone, a page that cannot be written stays in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlora_ray.engine.base import Base
from mlora_ray.engine.engine import StepFailure
from tests.engine.jobs import make_engine, mixed_job, train_all
from tests.engine.models import as_base, stock_model


@pytest.fixture(scope="module")
def base() -> Base:
    return as_base(stock_model("llama"))


def _paged(base: Base, page_dir: Path, num_jobs: int = 4):
    jobs = [mixed_job(i) for i in range(num_jobs)]
    room = 2 * max(12 * make_engine(base).layout(spec).size for spec, _ in jobs)
    engine = make_engine(base, adapter_memory_bytes=room, page_dir=str(page_dir), page_steps=1)
    for spec, rows in jobs:
        engine.admit(spec, rows)
    return engine


def test_pages_that_cannot_be_written(base: Base, tmp_path: Path) -> None:
    blocked = tmp_path / "pages"
    blocked.write_text("a file where the directory should be")
    engine = _paged(base, blocked)
    reports = train_all(engine)
    assert not [r for r in reports if isinstance(r, StepFailure)]
    assert engine.num_page_outs == 0
    assert engine.is_done("job-0") and engine.is_done("job-1"), "the residents go on"


def test_a_lost_page_fails_its_job_alone(base: Base, tmp_path: Path) -> None:
    engine = _paged(base, tmp_path)
    while not list(tmp_path.glob("*.safetensors")):
        engine.step()
    page = next(iter(tmp_path.glob("*.safetensors")))
    page.write_bytes(b"torn")
    failures = [r for r in train_all(engine) if isinstance(r, StepFailure)]
    assert [f.job for f in failures] == [page.stem]
    assert "page cannot be read" in failures[0].error
