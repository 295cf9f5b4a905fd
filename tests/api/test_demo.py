"""The demo's eight jobs, written in Python, come out with the hashes of the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mlora_ray as mr

ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 3


def demo(folder: Path) -> dict[str, Any]:
    """The demo's job file over its own data in `folder`, cut to a few steps and without evaluation."""
    subprocess.run([sys.executable, str(ROOT / "examples/make_data.py"), "--out", str(folder)], check=True, timeout=120)
    document: dict[str, Any] = yaml.safe_load((ROOT / "examples/demo.yaml").read_text(encoding="utf-8"))
    document["defaults"].pop("num_epochs")
    for job in document["jobs"]:
        job["train"] = str(folder / Path(job["train"]).name)
        job |= {"max_steps": NUM_STEPS}
        job.pop("eval", None)
        job.pop("num_epochs", None)
    return document


def jobs_of(document: dict[str, Any]) -> list[mr.Job]:
    return [mr.Job(**{**document["defaults"], **job}) for job in document["jobs"]]


@pytest.mark.full
@pytest.mark.base135m
@pytest.mark.timeout(900)
def test_the_demo_in_python_has_the_commands_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLORA_RAY_HOME", raising=False)
    document = demo(tmp_path / "data")
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [sys.executable, "-m", "mlora_ray", "train", str(tmp_path / "jobs.yaml"), "--out", str(tmp_path / "cli")]
    subprocess.run([*command, "--threads", "1"], check=True, cwd=ROOT, timeout=600, capture_output=True)
    by_command = mr.open_run(tmp_path / "cli")
    top = {key: value for key, value in document.items() if key in ("dtype", "seed")}
    run = mr.train(jobs_of(document), document["base"], tmp_path / "api", threads=1, progress=False, **top)
    assert len(run) == 8
    assert {name: run[name].sha256 for name in run} == {name: by_command[name].sha256 for name in by_command}
