"""One run of a service under chaos: a driver submits, faults come, then the database and the files are looked at."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from mlora_ray.actors.options import find_placement
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.errors import DatabaseError, MloraError
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import AutoscaleSettings, HostType, JobSpec, JobState
from mlora_ray.types.records import HostRecord
from tests.chaos.machines import LABELS, NUM_WORKERS, Machines, kill, wait_for
from tests.conftest import real_spec

ROOT = Path(__file__).resolve().parents[2]
NUM_JOBS = 12
DONE_S = 480.0
CALL_S = 60.0
FENCE_S = 4.0
TYPE = HostType(name="cpu", labels=tuple(LABELS.items()), max_hosts=NUM_WORKERS, memory_limit_bytes=2 << 30)


def make_jobs(folder: Path, steps: int, number: int = NUM_JOBS) -> tuple[JobSpec, ...]:
    """Jobs on the tiny base, no two alike; each third one is evaluated on its way."""
    jobs = []
    for i in range(number):
        optim = ("adamw", "lion", "sgd")[i % 3]
        eval_steps = {"eval_steps": 40} if i % 3 == 0 else {}
        rate = {"adamw": 1e-2, "lion": 1e-3, "sgd": 1e-1}[optim]
        name = f"job-{i:02d}"
        train = {"max_steps": steps, "save_steps": 10, "optim": optim, "learning_rate": rate, "seed": i, **eval_steps}
        spec = real_spec(folder, name, eval_rows=i % 3 == 0, **train)
        jobs.append(dataclasses.replace(spec, lora=dataclasses.replace(spec.lora, r=(2, 4, 8)[i % 3])))
    return tuple(jobs)


class Drill:
    """One service over one folder of storage and one database."""

    def __init__(
        self, machines: Machines, folder: Path, specs: Sequence[JobSpec], database_url: str = "", **settings: Any
    ) -> None:
        self.machines, self.specs, self.folder = machines, tuple(specs), folder
        self.storage = folder / "storage"
        self.storage.mkdir(parents=True)
        known: dict[str, Any] = {
            "name": f"chaos-{time.time_ns():x}",
            "storage": str(self.storage),
            "database_url": database_url or f"sqlite:///{folder}/control.db",
            "policy": "rebalance",
            "host_types": (TYPE,),
            "autoscale": AutoscaleSettings(min_hosts=NUM_WORKERS, max_hosts=NUM_WORKERS),
            "tick_s": 0.25,
            "host_timeout_s": FENCE_S,
            "page_root": str(folder / "pages"),
        }
        self.settings = ServiceSettings(**{**known, **settings})
        self.database = ControlDatabase(self.settings.database_url)
        self.driver: subprocess.Popen[bytes] | None = None

    @property
    def bundles(self) -> Path:
        return Path(self.settings.bundle_root)

    # -- the driver

    def start_driver(self) -> None:
        """Returns once the jobs are submitted."""
        order = self.folder / "order.pickle"
        order.write_bytes(pickle.dumps((self.machines.address, self.settings, self.specs)))
        log = self.folder / f"driver-{time.time_ns():x}.log"
        command = [sys.executable, "-m", "tests.chaos.driver", str(order)]
        with log.open("wb") as out:
            self.driver = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        driver = self.driver
        wait_for(lambda: b"submitted" in log.read_bytes() or driver.poll() is not None, "submitting", DONE_S)
        assert b"submitted" in log.read_bytes() or driver.poll() == -9, log.read_text()

    def kill_driver(self) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()

    # -- what one can see from outside

    def ask(self, read: Callable[[ControlDatabase], Any], otherwise: Any = None) -> Any:
        """Of the database, which may be away."""
        try:
            return read(self.database)
        except DatabaseError:
            return otherwise

    def share_done(self) -> float:
        records = self.ask(lambda db: db.jobs(), [])
        return sum(r.step for r in records) / sum(s.total_steps for s in self.specs)

    def is_done(self) -> bool:
        records = self.ask(lambda db: db.jobs(), [])
        return len(records) == len(self.specs) and all(r.state.is_final for r in records)

    def alive_hosts(self) -> list[HostRecord]:
        hosts: list[HostRecord] = self.ask(lambda db: db.hosts(), [])
        return [h for h in hosts if h.state == "alive"]

    def wait_until_done(self) -> None:
        wait_for(self.is_done, "the end of every job", DONE_S)

    def call(self, method: str, *args: Any) -> Any:
        """Of the placement actor, which may be restarting."""
        ends_s = time.monotonic() + CALL_S
        while True:
            try:
                return ray.get(getattr(find_placement(self.settings.name), method).remote(*args), timeout=CALL_S)
            except (RayError, MloraError):
                if time.monotonic() > ends_s:
                    raise
                time.sleep(0.2)

    # -- the end

    def end(self) -> None:
        """Stop the service; raises AssertionError when a process of it is left."""
        self.kill_driver()
        self.call("stop", 30.0)
        ray.kill(find_placement(self.settings.name), no_restart=True)
        for class_name in ("HostActor", "PlacementActor"):
            left = lambda name=class_name: not self.machines.actors(name)  # noqa: E731
            wait_for(left, f"the end of every {class_name}", 20.0)

    def destroy(self) -> None:
        """After a failure: end what there is, without a word to Ray, which may be broken."""
        self.kill_driver()
        for _ in range(3):  # Ray restarts the placement actor
            for class_name in ("PlacementActor", "HostActor"):
                for process in self.machines.actors(class_name):
                    kill(process)
            time.sleep(1.0)

    def story(self, num_events: int = 60) -> str:
        """What there is to say after a failure."""
        lines = [
            str(job) for job in self.ask(lambda db: [(r.spec.name, r.state, r.step, r.host) for r in db.jobs()], [])
        ]
        hosts = self.ask(lambda db: db.hosts(is_gone_included=True), [])
        lines += [f"{h.settings.id} {h.state} pid={h.pid} {h.why}" for h in hosts]
        events = [e for e in self.ask(lambda db: db.events(), []) if e.kind != "saved"]
        return "\n".join(lines + [f"{e.at_s:.2f} {e.kind} {e.job} {e.host} {e.detail}" for e in events[-num_events:]])

    def check(self) -> dict[str, str]:
        """SHA-256 of each job's adapter file. Raises AssertionError for a step or event that may not be."""
        self.database.check_integrity()
        records = self.database.jobs()
        assert {r.spec.name: r.state for r in records} == {s.name: JobState.SUCCEEDED for s in self.specs}, [
            (r.spec.name, r.state, r.error) for r in records if r.state is not JobState.SUCCEEDED
        ]
        for record in records:
            expected = list(range(1, record.spec.total_steps + 1))
            assert [s.step for s, _ in self.database.steps(record.spec.name)] == expected
            lines = (self.storage / record.spec.name / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == expected, record.spec.name
        assert [h.settings.id for h in self.database.hosts()] == []
        return {r.spec.name: f"{r.weights_sha256} {self._file_sha256(r.spec.name)}" for r in records}

    def _file_sha256(self, job: str) -> str:
        return hashlib.sha256((self.storage / job / "adapter_model.safetensors").read_bytes()).hexdigest()

    def close(self) -> None:
        self.database.close()


def run_to_the_end(
    drill: Drill, disturb: Callable[[Drill], None] | None = None, look: Callable[[Drill], Any] | None = None
) -> dict[str, str]:
    """Hashes by job, after a `look` at the database. Leaves nothing running, whatever happens."""
    try:
        drill.start_driver()
        if disturb is not None:
            disturb(drill)
        drill.wait_until_done()
        wait_for(lambda: _has_all_lines(drill), "every step in metrics.jsonl", 30.0)
        drill.end()
        if look is not None:
            look(drill)
        return drill.check()
    except BaseException:
        print(f"{time.time():.2f}: {drill.story()}", flush=True)
        drill.destroy()
        raise
    finally:
        drill.close()


def _has_all_lines(drill: Drill) -> bool:
    files = [(s, drill.storage / s.name / "metrics.jsonl") for s in drill.specs]
    return all(f.exists() and f.read_bytes().count(b"\n") == s.total_steps for s, f in files)
