"""`mlora-ray train` as people run it: a process, a job file, a directory, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from mlora_ray.cli.app import app
from mlora_ray.store.run_files import read_metrics

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 180.0
NUM_STEPS = 300  # some seconds: 100 were over on an idle machine before they were told to stop
NAMES = ("adds", "dropped", "lion")
JOBS = """
base: tiny-llama
dtype: float32
seed: 3
defaults: {learning_rate: 0.01, max_steps: 300, batch_size: 2, save_steps: 10, eval_steps: 50}
jobs:
  - {name: adds, r: 4, train: rows.jsonl, eval: rows.jsonl}
  - {name: dropped, r: 8, lora_dropout: 0.1, train: rows.jsonl, eval: rows.jsonl}
  - {name: lion, r: 2, optim: lion, learning_rate: 0.001, train: rows.jsonl}
"""
WILD = "  - {name: wild, r: 4, learning_rate: 1.0e+30, max_grad_norm: 0, train: rows.jsonl}\n"


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command in a session of its own, as a shell in a terminal would start it."""
    command = [sys.executable, "-m", "mlora_ray", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error; and nothing that it started is left."""
    process = start(*arguments)
    out, err = process.communicate(timeout=RUN_S)
    assert left_of_session(process.pid) == []
    return process.returncode, out, err


def refused(*arguments: str) -> tuple[str, str]:
    """Standard output and error of a command that ends with 1; in this process, for nothing of it gets to Ray."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    return done.stdout, done.stderr


def left_of_session(session: int) -> list[str]:
    """Command lines of the processes still in a session."""
    left = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                left.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return left


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + RUN_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited too long for {what}"
        time.sleep(0.02)


def hashes(out: Path, names: tuple[str, ...] = NAMES) -> dict[str, str]:
    return {name: json.loads((out / name / "job.json").read_text())["weights_sha256"] for name in names}


def steps(out: Path, name: str) -> list[dict[str, Any]]:
    """metrics.jsonl without what only says how long it took."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(out / name / "metrics.jsonl")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("e2e")
    rows = [{"prompt": f"{a} plus {b} is", "completion": f" {a + b}"} for a in range(4) for b in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "jobs.yaml").write_text(JOBS)
    (folder / "wild.yaml").write_text(JOBS + WILD)
    return folder


@pytest.fixture(scope="module")
def quiet(folder: Path) -> Path:
    """The directory of an undisturbed run."""
    out = folder / "quiet"
    code, _, err = run("train", str(folder / "jobs.yaml"), "--out", str(out), "--threads", "1")
    assert code == 0, err
    return out


def test_everything_that_was_promised_is_there(quiet: Path) -> None:
    for name in NAMES:
        files = {p.name for p in (quiet / name).iterdir()}
        wanted = {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "job.json"}
        assert files == (wanted if name == "lion" else wanted | {"eval.json"})
        assert [line["step"] for line in steps(quiet, name)] == list(range(1, NUM_STEPS + 1))
    summary = json.loads((quiet / "summary.json").read_text())
    assert summary["succeeded"] == list(NAMES)
    assert summary["failed"] == []
    assert summary["cross_eval"]["adapters"] == ["adds", "dropped"]
    assert summary["throughput"]
    assert all(job["eval_loss"] < job["base_eval_loss"] for job in summary["jobs"][:2])
    assert "<svg" in (quiet / "report.html").read_text()


def test_the_directory_of_a_run_is_refused(folder: Path, quiet: Path) -> None:
    before = hashes(quiet)
    _, err = refused("train", str(folder / "jobs.yaml"), "--out", str(quiet))
    assert "--resume" in err
    assert "--overwrite" in err
    _, err = refused("train", str(folder / "jobs.yaml"), "--out", str(quiet), "--resume", "--threads", "2")
    assert "--threads must be 1, with which this run began" in err
    out, err = refused("train", str(folder / "wild.yaml"), "--out", str(quiet), "--resume", "--json")
    assert 'job "wild": name is a new name' in err
    assert json.loads(out)["mistakes"][0]["job"] == "wild"
    assert hashes(quiet) == before


def test_a_finished_run_that_is_resumed_is_not_evaluated_again(folder: Path, quiet: Path) -> None:
    before = json.loads((quiet / "summary.json").read_text())
    code, out, err = run("train", str(folder / "jobs.yaml"), "--out", str(quiet), "--resume", "--json")
    assert code == 0, err
    after = json.loads(out)
    assert "cross-evaluating" not in err
    assert after.pop("command") != before.pop("command")
    assert after == before


def test_mistakes_come_all_at_once_and_nothing_is_left(folder: Path) -> None:
    bad = folder / "bad.yaml"
    bad.write_text(JOBS.replace("r: 4,", "r: -4, colour: red,").replace("optim: lion", "optim: tiger"))
    _, err = refused("train", str(bad), "--out", str(folder / "never"))
    assert all(word in err for word in ("bad.yaml:7", "colour", "tiger"))
    assert not (folder / "never").exists()


def test_with_a_failing_job_interrupted_killed_and_resumed_the_others_come_to_the_same_bits(
    folder: Path, quiet: Path
) -> None:
    out = folder / "disturbed"
    arguments = ("train", str(folder / "wild.yaml"), "--out", str(out), "--threads", "1")

    process = start(*arguments)
    wait_for(lambda: len(steps(out, "adds")) >= 10, "the first bundle")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: everybody in the foreground gets it
    printed, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 130, err
    assert "--resume" in printed
    assert left_of_session(process.pid) == []
    stopped_at = len(steps(out, "adds"))
    assert 10 <= stopped_at < NUM_STEPS

    process = start(*arguments, "--resume")
    wait_for(lambda: len(steps(out, "adds")) >= stopped_at + 10, "a bundle after the resumption")
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=RUN_S)

    code, printed, err = run(*arguments, "--resume", "--json")
    assert code == 3, err
    summary = json.loads(printed)
    assert [f["name"] for f in summary["failed"]] == ["wild"]
    assert summary["succeeded"] == list(NAMES)
    assert hashes(out) == hashes(quiet)
    assert all(steps(out, name) == steps(quiet, name) for name in NAMES)
    _, alive = psutil.wait_procs(started, timeout=60)  # of the killed run
    assert alive == []
