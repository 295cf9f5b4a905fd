"""A cluster as people run it: `ray job submit`, drivers that are stopped and killed, and every command against it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from typer.testing import CliRunner

from mlora_ray.cli.app import app
from tests.e2e.test_train import JOBS as SHORT
from tests.e2e.test_train import NAMES, ROOT, hashes, steps, wait_for
from tests.e2e.test_train import NUM_STEPS as SHORT_STEPS

pytestmark = pytest.mark.timeout(900)  # a cluster, and ten processes: a minute on an idle machine
RUN_S = 400.0
RAY = str(Path(sys.executable).with_name("ray"))
NUM_STEPS = 800  # some seconds: the first is not over when it is told to stop
JOBS = SHORT.replace(f"max_steps: {SHORT_STEPS}", f"max_steps: {NUM_STEPS}").replace(", eval: rows.jsonl", "")
MORE = "".join(line for line in JOBS.splitlines(True) if not line.startswith("  - {name") or "lion" in line)
LONG = JOBS.replace("name: ", "name: long-").replace(f"max_steps: {NUM_STEPS}", "max_steps: 20000")
STOP_WAIT_S = "60"  # `ray job stop` kills after 3 s by default: enough to ask for the saving, not to hear of its end


class Cluster(NamedTuple):
    address: str
    dashboard: str
    storage: Path
    environment: dict[str, str]


def free_ports(number: int) -> list[int]:
    held = [socket.socket() for _ in range(number)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def run(command: list[str], environment: dict[str, str], timeout_s: float = RUN_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)


def start_mlora(cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mlora_ray", *arguments],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def mlora(cluster: Cluster, *arguments: str, code: int = 0) -> str:
    """A command's standard output, or where it is a mistake its standard error. It runs in this process."""
    done = CliRunner(env=cluster.environment).invoke(app, list(arguments))
    assert done.exit_code == code, done.stderr + done.stdout
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.stderr if code else done.stdout


def mlora_process(cluster: Cluster, *arguments: str, code: int = 0) -> str:
    """As `mlora`, as a person runs it: in a process of its own."""
    done = run([sys.executable, "-m", "mlora_ray", *arguments], cluster.environment)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stderr if code else done.stdout


def mlora_json(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(mlora(cluster, *arguments, "--json"))


def states(cluster: Cluster, *names: str) -> dict[str, str]:
    return {job["name"]: job["state"] for job in mlora_json(cluster, "status", *names)["jobs"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is submitted: job files and data, found beside each other wherever Ray unpacks them."""
    folder = tmp_path_factory.mktemp("submitted")
    rows = [{"prompt": f"{a} plus {b} is", "completion": f" {a + b}"} for a in range(4) for b in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in {"jobs": JOBS, "more": MORE.replace("name: ", "name: more-"), "long": LONG}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def quiet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of an undisturbed run in a cluster of its own."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    command = [sys.executable, "-m", "mlora_ray", "train", str(folder / "jobs.yaml"), "--out", str(out)]
    done = run([*command, "--threads", "1"], dict(os.environ))
    assert done.returncode == 0, done.stderr
    return hashes(out)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head of two CPUs on ports and in a directory of its own, ended by its own processes."""
    storage = tmp_path_factory.mktemp("storage")
    ports = free_ports(6)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    options = zip((*names, "metrics-export-port", "ray-client-server-port"), ports, strict=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLORA_STORAGE"))}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    # On a machine that is busy enough its agents come later than the 30 s after which a head gives itself up.
    environment |= {"RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT_S, "RAY_agent_register_timeout_ms": "300000"}
    with tempfile.TemporaryDirectory(prefix="mlora-e2e-", ignore_cleanup_errors=True) as temporary:
        command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", f"--temp-dir={temporary}"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--include-dashboard=true"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        command += [f"--{name}={port}" for name, port in options]
        head = subprocess.Popen(
            command, env=environment, cwd=temporary, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            address, dashboard = f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
            environment |= {"RAY_ADDRESS": address, "RAY_API_SERVER_ADDRESS": dashboard}
            wait_for(lambda: is_up(head, dashboard), "the head")
            yield Cluster(address, dashboard, storage, environment)
        finally:
            end(head, temporary)


def ask(url: str, method: str = "GET") -> Any:
    """The dashboard's answer. `ray job` asks the same, but half a second of start-up later."""
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def is_up(head: subprocess.Popen[bytes], dashboard: str) -> bool:
    assert head.poll() is None, "the head has ended"
    try:
        return bool(ask(f"{dashboard}/api/version"))
    except OSError:
        return False


def end(head: subprocess.Popen[bytes], temporary: str) -> None:
    """All that the head started: its children, or where it is gone itself those that work in its directory."""
    if head.poll() is None:
        started = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(timeout=60)
    else:
        started = [process for process in psutil.process_iter() if works_in(process, temporary)]
    _, alive = psutil.wait_procs(started, timeout=20)
    for process in alive:
        process.kill()


def works_in(process: psutil.Process, folder: str) -> bool:
    try:
        return any(folder in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def submit_ray_job(cluster: Cluster, folder: Path, name: str, *options: str) -> str:
    """`ray job submit` of the folder's jobs; answers what it printed."""
    runtime = {"env_vars": {"MLORA_STORAGE": str(cluster.storage)}}
    command = [RAY, "job", "submit", f"--submission-id={name}", f"--working-dir={folder}", *options]
    command += [f"--runtime-env-json={json.dumps(runtime)}", "--", sys.executable, "-m", "mlora_ray"]
    done = run([*command, "train", "jobs.yaml", "--address", "auto", "--threads", "1"], cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ray_logs(cluster: Cluster, name: str) -> str:
    done = run([RAY, "job", "logs", name], cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_stopped_ray_job_leaves_its_jobs_saved_and_a_second_goes_on_to_the_same_bits(
    cluster: Cluster, folder: Path, quiet: dict[str, str]
) -> None:
    submit_ray_job(cluster, folder, "first", "--no-wait")
    wait_for(lambda: len(steps(cluster.storage, "adds")) >= 20, "the first bundle")
    first = f"{cluster.dashboard}/api/jobs/first"
    ask(f"{first}/stop", "POST")
    wait_for(lambda: ask(first)["status"] == "STOPPED", "the end of the driver")
    assert "go on with: mlora-ray train jobs.yaml" in ray_logs(cluster, "first")
    saved = {job["name"]: job for job in mlora_json(cluster, "status")["jobs"]}
    assert {job["state"] for job in saved.values()} == {"PAUSED"}
    for name in NAMES:
        last = saved[name]["step"]
        assert 20 <= last < NUM_STEPS
        assert [line["step"] for line in steps(cluster.storage, name)] == list(range(1, last + 1))

    printed = submit_ray_job(cluster, folder, "second")
    assert "3 of 3 jobs succeeded" in printed
    assert hashes(cluster.storage) == quiet
    for name in NAMES:
        assert [line["step"] for line in steps(cluster.storage, name)] == list(range(1, NUM_STEPS + 1))
    assert json.loads((cluster.storage / "summary.json").read_text())["succeeded"] == list(NAMES)
    assert (cluster.storage / "report.html").exists()


def test_what_the_commands_say_of_finished_jobs(cluster: Cluster, quiet: dict[str, str], tmp_path: Path) -> None:
    events = mlora_json(cluster, "events", "--job", "adds")["events"]
    kinds = [event["kind"] for event in events]
    assert kinds[-1] == "succeeded"
    assert "paused" in kinds or "released" in kinds
    assert all(event["job"] == "adds" for event in events)
    later = mlora_json(cluster, "events", "--job", "adds", "--after", str(events[-2]["id"]))["events"]
    assert later == events[-1:]
    lines = mlora(cluster, "logs", "adds", "--follow").splitlines()
    at = [index for index, line in enumerate(lines) if line.startswith("  step ")]
    assert len(at) == NUM_STEPS
    assert "succeeded" in lines[-1]
    replayed = mlora_json(cluster, "replay", str(cluster.storage / ".mlora" / "decisions.jsonl"))
    assert replayed["decisions"] > 0
    assert replayed["different"] == 0, replayed["differences"]
    entries = [json.loads(line) for line in mlora(cluster, "logs", "adds", "--follow", "--json").splitlines()]
    assert [e["step"] for e in entries if e["type"] == "step"] == list(range(1, NUM_STEPS + 1))
    answer = mlora_json(cluster, "export", "adds", "--to", str(tmp_path / "adapter"))
    assert (
        answer["weights_sha256"] == quiet["adds"] == hashes(tmp_path.parent, (tmp_path.name + "/adapter",)).popitem()[1]
    )


def test_a_killed_driver_takes_nothing_with_it(cluster: Cluster, folder: Path, quiet: dict[str, str]) -> None:
    arguments = ("train", str(folder / "more.yaml"), "--address", cluster.address, "--threads", "1")
    process = start_mlora(cluster, *arguments)
    wait_for(lambda: len(steps(cluster.storage, "more-lion")) >= 20, "the first bundle")
    process.kill()
    process.communicate(timeout=RUN_S)
    wait_for((cluster.storage / "more-lion" / "job.json").exists, "the end of the job")
    again = json.loads(mlora(cluster, *arguments, "--json"))
    assert [job["name"] for job in again["jobs"]] == again["succeeded"] == ["more-lion"]
    assert hashes(cluster.storage, ("more-lion",)) == {"more-lion": quiet["lion"]}


def test_jobs_that_run_are_paused_moved_exported_and_cancelled(cluster: Cluster, folder: Path, tmp_path: Path) -> None:
    names = tuple(f"long-{name}" for name in NAMES)
    first, *others = names
    assert "submitted 3 jobs" in mlora_process(cluster, "submit", str(folder / "long.yaml"))
    wait_for(lambda: len(steps(cluster.storage, first)) >= 20, "the first bundle")
    assert mlora_json(cluster, "pause", first)["changed"] == [first]
    wait_for(lambda: states(cluster, first) == {first: "PAUSED"}, "the pause")
    answer = mlora_json(cluster, "export", first, "--latest", "--to", str(tmp_path / "adapter"))
    assert answer["step"] == len(steps(cluster.storage, first))
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert mlora_json(cluster, "resume", first)["changed"] == [first]

    (host,) = {job["host"] for job in mlora_json(cluster, "status", others[0])["jobs"]}
    told = mlora_json(cluster, "explain", others[0])
    assert (told["state"], told["host"]) == ("TRAINING", host)
    assert told["why"][0].startswith(f"{others[0]} trains on {host}")
    assert told["expected_finish_s"] > time.time()
    assert mlora_json(cluster, "drain", host)["draining"] == [host]

    def is_elsewhere() -> bool:
        jobs = mlora_json(cluster, "status", *names)["jobs"]
        return all(job["state"] == "TRAINING" and job["host"] != host for job in jobs)

    wait_for(is_elsewhere, "the jobs on another host")
    hosts = {one["id"]: one["state"] for one in mlora_json(cluster, "hosts", "--gone")["hosts"]}
    assert hosts.pop(host) in ("draining", "gone")
    assert "alive" in hosts.values()
    assert mlora_json(cluster, "cancel", *others)["changed"] == others
    assert states(cluster, *others) == dict.fromkeys(others, "CANCELLED")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pause", "nobody", "noone"), ("(found nobody)", "(found noone)")),
        (("pause", "adds", "lion"), ("must be one that has not ended; it is SUCCEEDED (found adds)", "(found lion)")),
        (("drain", "cpu-999"), ("what to drain must be a host, or the start of a node id", "node ")),
        (("export", "long-lion", "--to", "{out}"), ("has SUCCEEDED; it is CANCELLED", "--latest")),
        (
            ("submit", "{wrong}"),
            ("lora.r must be 4: service 'mlora' has", "began with it (found 2)", "(found cuda)"),
        ),
        (("submit", "{wrong}", "--storage", "{out}"), ("--storage", "which service 'mlora' uses")),
    ],
)
def test_mistakes_are_lines_that_say_what_is_right(
    cluster: Cluster, folder: Path, tmp_path: Path, arguments: tuple[str, ...], said: tuple[str, ...]
) -> None:
    wrong = JOBS.replace("name: adds, r: 4", "name: adds, r: 2").replace(
        "name: dropped", "name: new, device_type: cuda"
    )
    (folder / "wrong.yaml").write_text(wrong)
    names = {"out": str(tmp_path / "out"), "wrong": str(folder / "wrong.yaml")}
    err = mlora(cluster, *(argument.format(**names) for argument in arguments), code=1)
    assert "Traceback" not in err
    for word in said:
        assert word in err


def test_the_service_ends_when_it_is_told_to(cluster: Cluster) -> None:
    assert mlora_json(cluster, "stop") == {"service": "mlora", "paused": ["long-adds"]}
    assert "this cluster has none" in mlora_process(cluster, "status", code=1)
