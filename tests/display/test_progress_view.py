"""The progress of a run, on a terminal and without one. Time comes in with the status: no test waits."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from mlora_ray.display.numbers import show_bytes, show_loss, show_seconds
from mlora_ray.display.progress_view import ProgressView, choose, draw
from mlora_ray.types import JobState
from mlora_ray.types.status import JobStatus, RunStatus

LONG_ERROR = "loss is inf at step 5:\nlearning_rate 10.0 is too high for [red]this[/red] adapter"


def _job(name: str, state: JobState = JobState.TRAINING, step: int = 5, **fields: object) -> JobStatus:
    status = JobStatus(name=name, state=state, step=step, total_steps=10, loss=1.25, num_tokens=500, is_resident=True)
    return dataclasses.replace(status, **fields)  # type: ignore[arg-type]


def _run(*jobs: JobStatus, elapsed_s: float = 10.0, done: int = 4000) -> RunStatus:
    return RunStatus(
        jobs=jobs, tokens_per_s=400.0, memory_bytes=1_950_000_000, memory_limit_bytes=6_400_000_000, token_budget=1024,
        elapsed_s=elapsed_s, total_tokens=10_000, done_tokens=done,
    )  # fmt: skip


def _drawn(status: RunStatus, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, file=io.StringIO())
    with console.capture() as captured:
        console.print(draw(status, width, height))
    return captured.get().rstrip("\n").split("\n")


def _plain() -> Console:
    return Console(file=io.StringIO(), width=60, force_terminal=False)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_whole_on_top_and_a_line_a_job() -> None:
    failed = _job("broken", JobState.FAILED, error=LONG_ERROR)
    jobs = (
        _job("alpha", tokens_per_s=120.0),
        failed,
        _job("paged", is_resident=False),
        _job("next", JobState.QUEUED, 0),
    )
    lines = _drawn(_run(*jobs), 100, 30)
    assert "40.0% · 400 tokens/s · 15.0 s left" in lines[0]
    assert lines[1] == "memory 1.95 GB of 6.4 GB · 2 training · 1 waiting · 1 failed · 1,024 tokens a row"
    assert len(lines) == 6
    assert "training   5/10  loss 1.2500      120 tok/s" in lines[2]
    assert "failed" in lines[3]
    assert "learning_rate 10.0" in lines[3]
    assert "paged out" in lines[4]
    assert "queued     0/10" in lines[5]


@pytest.mark.parametrize("width", [30, 60, 80, 200])
@pytest.mark.parametrize("height", [4, 10, 40])
def test_it_stays_inside_the_screen(width: int, height: int) -> None:
    jobs = [_job(f"tenant-{i:03d}", JobState.QUEUED, 0) for i in range(300)]
    jobs[40:44] = [_job(f"running-{i}" * 9, error=LONG_ERROR) for i in range(4)]
    lines = _drawn(_run(*jobs), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_with_too_many_jobs_the_running_come_first() -> None:
    jobs = [_job(f"done-{i}", JobState.SUCCEEDED, 10) for i in range(5)]
    jobs += [_job(f"waiting-{i}", JobState.QUEUED, 0) for i in range(20)]
    jobs += [_job("out", is_resident=False), _job("in")]
    lines = _drawn(_run(*jobs), 100, 8)
    assert [line.split()[0] for line in lines[2:6]] == ["in", "out", "waiting-0", "waiting-1"]
    assert lines[-1] == "… 18 more waiting, 5 done"
    assert choose(tuple(jobs), 27) == tuple(jobs)


def test_plain_lines_every_five_seconds_and_one_when_a_job_ends() -> None:
    console = _plain()
    with ProgressView(console) as view:
        for second in range(12):
            state = JobState.SUCCEEDED if second >= 7 else JobState.TRAINING
            broken = _job("b", JobState.FAILED, error=LONG_ERROR) if second >= 8 else _job("b")
            view.update(_run(_job("a", state), broken, elapsed_s=float(second), done=second * 100))
    lines = _text(console).splitlines()
    assert [line.split(" · ")[0].strip() for line in lines] == [
        "0.0%", "5.0%", "done a: step 5/10",
        f"failed b at step 5/10: {' '.join(LONG_ERROR.split())}", "10.0%", "11.0%",
    ]  # fmt: skip
    assert "1,100/10,000 tokens" in lines[-1]
    assert "memory 1.95 GB of 6.4 GB" in lines[-1]
    assert "\x1b" not in _text(console)


def test_a_terminal_is_left_with_one_line_and_the_failures() -> None:
    console = Console(file=io.StringIO(), width=120, height=20, force_terminal=True, color_system=None)
    with ProgressView(console) as view:
        view.update(_run(_job("a"), elapsed_s=1.0))
        view.update(_run(_job("a", JobState.FAILED, error="loss is inf"), elapsed_s=2.0))
    text = _text(console)
    assert text.count("failed a at step 5/10: loss is inf") == 1
    assert text.rstrip().endswith("1 failed")


def test_an_error_inside_passes_through() -> None:
    console = _plain()
    view = ProgressView(console)
    view.update(_run(_job("a"), elapsed_s=1.0))
    with pytest.raises(KeyboardInterrupt), view:
        raise KeyboardInterrupt
    assert "40.0%" in _text(console)


def test_evaluating_and_saving_are_said() -> None:
    status = dataclasses.replace(_run(_job("a", step=10), done=10_000), phase="evaluating")
    assert "100.0% · evaluating · 10.0 s gone" in _drawn(status, 100, 10)[0]
    console = _plain()
    with ProgressView(console) as view:
        view.update(status)
        view.update(dataclasses.replace(status, elapsed_s=10.2))
        view.update(dataclasses.replace(status, elapsed_s=16.0))
    assert [line.count("evaluating") for line in _text(console).splitlines()] == [1, 1]


def test_nothing_known_yet() -> None:
    status = RunStatus(jobs=(_job("a", JobState.QUEUED, 0, loss=float("nan")),))
    assert status.eta_s is None
    assert status.share_done == 0
    assert "1 waiting" in "\n".join(_drawn(status, 80, 10))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (show_seconds(0.4217), "0.42 s"),
        (show_seconds(59.96), "1m00s"),
        (show_seconds(3600 * 2 + 59), "2h00m"),
        (show_seconds(None), "–"),
        (show_bytes(999), "999 B"),
        (show_bytes(58.6e6), "58.6 MB"),
        (show_loss(float("nan")), "–"),
        (show_loss(12345.678), "1.235e+04"),
    ],
)
def test_units(shown: str, text: str) -> None:
    assert shown == text
