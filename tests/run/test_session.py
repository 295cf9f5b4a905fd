"""A session without a command line: from a thread, without a terminal and without signal handlers."""

from __future__ import annotations

import io
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from mlora_ray.config.job_file import read_job_file
from mlora_ray.run.finish import finish, recorded_summary
from mlora_ray.run.local import private_session
from mlora_ray.run.options import TrainOptions
from mlora_ray.run.session import Started
from mlora_ray.types import JobState
from mlora_ray.types.records import JobRecord
from mlora_ray.types.status import RunStatus
from tests.conftest import make_spec

pytestmark = pytest.mark.timeout(300)
RUN_S = 280.0
JOBS = """
base: tiny-llama
dtype: float32
defaults: {r: 4, max_steps: 400, batch_size: 2, save_steps: 20}
jobs:
  - {name: a, train: rows.jsonl}
  - {name: b, seed: 2, train: rows.jsonl}
"""


def interrupted(options: TrainOptions) -> RunStatus:
    """Started, looked at, told to stop in the middle, saved."""
    job_file = read_job_file(options.job_file)
    with private_session(job_file, options, Started()) as session:
        session.start()
        assert {job.name for job in session.progress().jobs} == {"a", "b"}

        def look(status: RunStatus) -> None:
            session.interrupt.is_set = any(job.step > 0 for job in status.jobs)

        session.wait(look)
        saved = session.save()
        session.end()
    return saved


def resumed(options: TrainOptions) -> tuple[int | None, int, str]:
    """Exit code, steps that were there before, and what was printed."""
    out = Console(file=io.StringIO())
    with private_session(read_job_file(options.job_file), options, Started()) as session:
        session.start()
        code = finish(session, session.wait(), False, out)
        session.end()
    return code, session.steps_before, out.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.full
def test_a_thread_starts_interrupts_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 plus 1 is", "completion": " 2"}\n' * 4)
    (tmp_path / "jobs.yaml").write_text(JOBS)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    job_file, out = str(tmp_path / "jobs.yaml"), tmp_path / "run"
    with ThreadPoolExecutor(1) as thread:
        options = TrainOptions(job_file=job_file, out=str(out), command="first", threads=1)
        saved = thread.submit(interrupted, options).result(RUN_S)
        options = TrainOptions(job_file=job_file, out=str(out), command="second", threads=1, is_resume=True)
        code, steps_before, printed = thread.submit(resumed, options).result(RUN_S)
    assert {job.state for job in saved.jobs} == {JobState.PAUSED}
    assert 0 < steps_before == sum(job.step for job in saved.jobs) < 800
    assert code == 0, printed
    assert "2 of 2 jobs succeeded" in printed
    assert json.loads((out / "summary.json").read_text())["command"] == "second"
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_summary_is_kept_only_of_these_jobs_and_where_nothing_was_trained_since(tmp_path: Path) -> None:
    def record(name: str, step: int) -> JobRecord:
        return JobRecord(
            spec=make_spec(name), state=JobState.SUCCEEDED, epoch=1, host="", step=step, bundle_uri="b",
            weights_sha256="", error="", num_tokens=1, submitted_at_s=0.0,
        )  # fmt: skip

    both = [record("a", 5), record("b", 7)]
    assert recorded_summary(str(tmp_path), both, 12) == {}
    summary = {"jobs": [{"name": "b"}, {"name": "a"}], "cross_eval": {"adapters": ["a"]}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert recorded_summary(str(tmp_path), both, 12) == summary
    assert recorded_summary(str(tmp_path), both, 11) == {}
    assert recorded_summary(str(tmp_path), both[:1], 5) == {}
