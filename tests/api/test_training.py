"""Runs from Python: blocking, in the background, interrupted, resumed; the same hashes as the command's."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import mlora_ray as mr
from mlora_ray.types import StepReport
from mlora_ray.types.status import JobStatus

BASE = "tiny-llama"
LONG = 600  # steps: seconds, so that it is told to stop before it is done
ROWS = [{"prompt": f"Question {i}:", "completion": f" answer {i}"} for i in range(8)]


def job(name: str, **fields: Any) -> mr.Job:
    return mr.Job(name, ROWS, **{"r": 4, "max_steps": 4, "batch_size": 2} | fields)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "run"


class Heard(mr.Callback):
    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.kinds: set[str] = set()
        self.ended: list[str] = []

    def on_step(self, report: StepReport) -> None:
        self.steps.append((report.job, report.step))

    def on_event(self, event: Any) -> None:
        self.kinds.add(event.kind)

    def on_job_end(self, status: JobStatus) -> None:
        self.ended.append(status.name)


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def run(out: Path, heard: Heard) -> mr.Run:
    jobs = [job("one"), job("two", r=8, lora_alpha=16), job("bad", learning_rate=1e30), job("long", max_steps=LONG)]
    return mr.train(jobs, BASE, out, threads=1, progress=False, callbacks=[heard])


def test_what_a_run_answers(run: mr.Run, out: Path) -> None:
    assert list(run) == ["one", "two", "bad", "long"]
    assert run.is_done
    assert run["one"].metrics.step.tolist() == [1, 2, 3, 4]
    assert run["one"].sha256 == json.loads((out / "one" / "job.json").read_text())["weights_sha256"]
    assert run["one"].adapter_dir == out / "one"
    assert {s.name: str(s.state) for s in run.progress().jobs}["two"] == "SUCCEEDED"
    assert "placed" in {e.kind for e in run.events()}
    with pytest.raises(KeyError, match="one, two, bad, long"):
        run["three"]


def test_a_job_that_fails_is_named_and_the_others_are_there(run: mr.Run) -> None:
    assert list(run.failed) == ["bad"]
    with pytest.raises(mr.JobError, match="bad: no adapter"):
        _ = run["bad"].sha256


def test_callbacks_hear_each_step_once_in_order(run: mr.Run, heard: Heard) -> None:
    for name in ("one", "two"):
        assert [step for job_name, step in heard.steps if job_name == name] == [1, 2, 3, 4]
    assert sorted(heard.ended) == ["bad", "long", "one", "two"]
    assert "placed" in heard.kinds


def test_an_adapter_is_loaded_as_peft_loads_it(run: mr.Run) -> None:
    loaded = run["two"].load()
    assert loaded.peft_config["default"].r == 8
    assert type(mr.load_adapter(run["one"].adapter_dir)).__name__ == type(loaded).__name__


def test_a_run_is_opened_again(run: mr.Run, out: Path) -> None:
    again = mr.open_run(out)
    assert set(again) == {"one", "two", "bad", "long"}
    assert again["one"].sha256 == run["one"].sha256
    assert again.wait() is again
    with pytest.raises(mr.MloraError, match="opened after its end"):
        again.progress()


def test_resuming_a_run_that_has_ended_keeps_its_results(run: mr.Run, out: Path) -> None:
    before = run["one"].sha256
    assert mr.resume(out, progress=False)["one"].sha256 == before


def test_an_interrupted_cell_keeps_its_state_and_resume_has_the_bits_of_a_run_that_was_not(
    tmp_path: Path, run: mr.Run
) -> None:
    class Interrupting(mr.Callback):
        def on_step(self, report: StepReport) -> None:
            if report.step == 1:
                signal.raise_signal(signal.SIGINT)  # the main thread hears it: it waits, as a cell does

    with pytest.raises(mr.Interrupted, match="resume"):
        mr.train(
            [job("long", max_steps=LONG, save_steps=5)], BASE, tmp_path / "b", threads=1, callbacks=[Interrupting()]
        )
    assert "PAUSED at step" in mr.open_run(tmp_path / "b").failed["long"]
    heard = Heard()
    going = mr.resume(tmp_path / "b", progress=False, callbacks=[heard])
    assert going["long"].sha256 == run["long"].sha256
    assert going.failed == {}
    assert "paused" not in heard.kinds  # that was the first part's


def test_an_error_in_a_callback_saves_a_run_in_the_background_and_is_raised(tmp_path: Path) -> None:
    class Wrong(Exception):
        pass

    class Breaking(mr.Callback):
        def on_step(self, report: StepReport) -> None:
            raise Wrong

    jobs = [job("longer", max_steps=4000, save_steps=2)]
    going = mr.start(jobs, BASE, tmp_path / "c", threads=1, callbacks=[Breaking()])
    with pytest.raises(TimeoutError, match="has not ended within"):
        going.wait(timeout_s=0.01)
    assert not going.is_done
    with pytest.raises(Wrong):
        going.wait()
    assert 0 < going.progress().jobs[0].step < 4000


def test_mistakes_are_the_commands_and_typed(tmp_path: Path) -> None:
    with pytest.raises(mr.InputError, match="learning_rat") as raised:
        mr.train([job("one", learning_rat=1.0)], BASE, tmp_path / "d", progress=False)
    assert all(m.file == "mlora_ray" and not m.line for m in raised.value.mistakes)
    assert not (tmp_path / "d").exists()


def test_check_counts_steps() -> None:
    assert mr.check([job("one")], BASE)["steps"] == 4


def test_interrupted_before_the_jobs_are_queued_nothing_goes_on_unseen(tmp_path: Path) -> None:
    running = set(threading.enumerate())
    interrupt = threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        mr.start([job("long", max_steps=4000)], BASE, tmp_path / "e", threads=1)
    interrupt.join()
    assert {thread for thread in threading.enumerate() if thread.name.startswith("mlora ")} <= running
