"""The command line without training: mistakes, sizes, directories."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlora_ray import __version__
from mlora_ray.cli.app import app
from mlora_ray.errors import InputError
from mlora_ray.run.directory import RunDirectory
from mlora_ray.run.finish import why_failed
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import BundleReport, JobState
from mlora_ray.types.records import Commit, JobRecord, Reassignment
from tests.conftest import make_spec, make_step

JOBS = "base: tiny-llama\njobs:\n  - {name: a, r: 4, train: rows.jsonl}\n"


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "jobs.yaml").write_text(JOBS)
    return tmp_path / "jobs.yaml"


def test_version() -> None:
    assert invoke("--version") == (0, f"{__version__}\n", "")


def test_check_says_what_would_run(job_file: Path) -> None:
    code, out, _ = invoke("check", str(job_file), "--json")
    report = json.loads(out)
    assert code == 0
    assert [job["name"] for job in report["jobs"]] == ["a"]
    assert invoke("check", str(job_file))[0] == 0


@pytest.mark.parametrize("command", [["check"], ["train", "--out", "never"]])
def test_mistakes_are_lines_and_with_json_objects(job_file: Path, command: list[str]) -> None:
    job_file.write_text(JOBS.replace("r: 4", "rang: 4, r: 0"))
    code, out, err = invoke(*command, str(job_file), "--json")
    assert code == 1
    assert {m["line"] for m in json.loads(out)["mistakes"]} == {3}
    assert len(err.splitlines()) == len(json.loads(out)["mistakes"]) >= 2
    assert all(line.startswith(f"{job_file}:3: ") for line in err.splitlines())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--max-memory", "lots", "8GB"),
        ("--adapter-memory", "-1GB", "above zero"),
        ("--policy", "best", "fifo"),
        ("--device", "tpu", "auto, cpu or cuda"),
    ],
)
def test_wrong_options_name_themselves(job_file: Path, option: str, value: str, said: str) -> None:
    out = job_file.parent / "out"
    code, _, err = invoke("train", str(job_file), "--out", str(out), option, value)
    assert code == 1
    assert option in err
    assert said in err
    assert not out.exists()


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for values in ({"is_overwrite": True}, {"is_resume": True}, {}):
        modes = {"is_resume": False, "is_overwrite": False} | values
        with pytest.raises(InputError, match="holds no run"):
            RunDirectory(str(tmp_path)).open(**modes)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwrite_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path / "run"))
    directory.open(is_resume=False, is_overwrite=False)
    database = ControlDatabase(directory.database_url)
    database.add_jobs([make_spec("a")], 1.0)
    database.close()
    for name in ("a/job.json", "summary.json", "notes.txt", "mine/file", ".mlora/bundles/a/step"):
        (directory.root / name).parent.mkdir(parents=True, exist_ok=True)
        (directory.root / name).write_text("x")
    directory.close()
    with pytest.raises(InputError, match="a directory without a run"):
        RunDirectory(str(directory.root)).open(is_resume=False, is_overwrite=False)
    again = RunDirectory(str(directory.root))
    again.open(is_resume=False, is_overwrite=True)
    again.empty()
    again.close()
    assert sorted(p.name for p in again.root.iterdir()) == [".mlora", "mine", "notes.txt"]
    assert not again.database.exists()
    assert not again.bundles.exists()


def test_overwrite_leaves_the_storage_of_a_service_at_work_alone(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path / "storage"))
    (directory.root / "a").mkdir(parents=True)
    (directory.root / "a" / "job.json").write_text("x")
    directory.ours.mkdir()
    service = ControlDatabase(directory.database_url)
    service.add_jobs([make_spec("a")], 1.0)
    service.take_lease("mlora on a cluster")
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(0.2):
            service.beat()

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(InputError, match=r"--overwrite must be .*'mlora on a cluster' is at work on it"):
            directory.open(is_resume=False, is_overwrite=True)
    finally:
        is_over.set()
        beating.join()
    service.release_lease()
    assert [r.spec.name for r in service.jobs()] == ["a"]
    service.close()
    assert (directory.root / "a" / "job.json").exists()
    directory.open(is_resume=False, is_overwrite=True)  # the lock was let go, and at rest it may go
    directory.empty()
    directory.close()
    assert not (directory.root / "a").exists()


def test_a_run_that_never_trained_leaves_the_directory_free(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        for bundle_uri in ("", "bundle"):
            directory = RunDirectory(str(folder))
            directory.open(is_resume=False, is_overwrite=False)
            database = ControlDatabase(directory.database_url)
            database.add_jobs([make_spec("a")], 1.0)
            if bundle_uri:
                database.change_hands([Reassignment("a", 0, JobState.PLACED, "h")], 2.0, "assigned")
                report = BundleReport(
                    job="a", epoch=1, step=1, bundle_uri=bundle_uri, sha256="0", steps=(make_step("a", 1),)
                )
                assert database.commit_bundle(report, 3.0) is Commit.COMMITTED
            database.close()
            directory.forget_untrained()
            assert directory.database.exists() == bool(bundle_uri)
            directory.close()


def test_what_can_go_on_says_so() -> None:
    record = JobRecord(
        spec=make_spec("a"),
        state=JobState.FAILED,
        epoch=1,
        host="",
        step=6,
        bundle_uri="b",
        weights_sha256="",
        error="storage, 5 attempts: full",
        num_tokens=1,
        submitted_at_s=0.0,
    )
    assert why_failed(record, "") == "storage, 5 attempts: full; --resume goes on from step 6"
    assert why_failed(dataclasses.replace(record, error="loss is inf"), "") == "loss is inf"
    waiting = dataclasses.replace(record, state=JobState.QUEUED, error="", step=0)
    assert why_failed(waiting, "database full") == "database full; --resume goes on from step 0"


def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path / "run"))
    directory.open(is_resume=False, is_overwrite=False)
    again = RunDirectory(str(tmp_path / "run"))
    with pytest.raises(InputError, match=rf"another process \(pid {os.getpid()}\) is using this run"):
        again.open(is_resume=True, is_overwrite=False)
    closing = threading.Thread(target=directory.close)  # a run may be ended by another thread than began it
    closing.start()
    closing.join()
    again.open(is_resume=True, is_overwrite=False)
    again.close()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = f"""
import time
from mlora_ray.run.directory import RunDirectory
directory = RunDirectory({str(tmp_path / "run")!r})
directory.open(is_resume=False, is_overwrite=False)
print("open", flush=True)
time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(InputError, match=f"pid {holder.pid}"):
            RunDirectory(str(tmp_path / "run")).open(is_resume=False, is_overwrite=False)
    finally:
        holder.kill()
        holder.wait(timeout=60)
    directory = RunDirectory(str(tmp_path / "run"))
    directory.open(is_resume=False, is_overwrite=False)
    directory.close()
