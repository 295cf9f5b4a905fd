"""`python -m mlora_ray.benchmarks.recovery`: how long adapters stand still when a host dies, and when they move.

One service with its defaults (a tick a second) on a private cluster: three hosts of the tiny base, two of a larger.

recovery   a host's process is killed -9; from then until placement has seen the first new step of each of its adapters
           on a living host. The base is loaded there already.
others     the longest time between two rounds of commits of a host that lives on, in ticks: 1 is no pause at all
move       an adapter of 50 MB of state goes to another host through the object store: from its last step on the one
           until the other can take the next
bundle     the same state by the way that is left when its host is gone: bundle written, flushed, read
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from mlora_ray.actors import local_cluster
from mlora_ray.benchmarks import workloads
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.profiling import measure
from mlora_ray.types import AutoscaleSettings, HostType, JobSpec

NUM_JOBS, NUM_HOSTS, NUM_KILLS, NUM_MOVES = 12, 3, 6, 6
STATE_BYTES = 50_000_000
STEPS = 1_000_000  # nobody ends
BASE, MOVE_BASE = "tiny-llama", "smollm2-135m"  # the tiny one takes no adapter of 50 MB
CALL_S = 180.0
DEADLINE_S = 400.0
LOOK_EVERY_S = 0.05
AROUND_S = 3.0  # before the kill, so that the gap it falls into is seen
BARS = {"recovery_s": 5.0, "others_ticks": 2.0, "move_pause_s": 1.0}


def run(
    *,
    num_jobs: int = NUM_JOBS,
    num_hosts: int = NUM_HOSTS,
    num_kills: int = NUM_KILLS,
    num_moves: int = NUM_MOVES,
    state_bytes: int = STATE_BYTES,
    move_base: str = MOVE_BASE,
) -> dict[str, Any]:
    """{command, commit, machine, seed, rows}: a row for the kills, one for the moves, one for the bundle."""
    with tempfile.TemporaryDirectory(prefix="mlora-bench-") as held:
        folder = Path(held)
        with local_cluster.embedded(num_cpus=num_hosts, note=folder / "ray"):
            rows = [_kills(folder, num_jobs, num_hosts, num_kills), _moves(folder, move_base, num_moves, state_bytes)]
        rows.append(_bundle(folder, num_moves, rows[1]["state_bytes"]))
    return measure.result(1, workloads.SEED, rows, bars=BARS)


def _kills(folder: Path, num_jobs: int, num_hosts: int, num_kills: int) -> dict[str, Any]:
    jobs = [{"name": f"job-{i:02d}", "r": 8, "seed": i} for i in range(num_jobs)]
    service = _Service(folder / "kills", jobs, num_hosts)
    recoveries, pauses = [], []
    for i in range(num_kills):
        victims = service.when_even()
        recovered, others = service.kill(sorted(victims)[i % num_hosts])
        recoveries += recovered
        pauses += others
    service.stop()
    return {
        "question": "kill",
        "kills": num_kills,
        "recovery_s": measure.median(recoveries),
        "recovery_max_s": max(recoveries),
        "recoveries_s": sorted(round(r, 3) for r in recoveries),
        "others_ticks": max(pauses),
        "others_median_ticks": measure.median(pauses),
    }


def _moves(folder: Path, base: str, num_moves: int, state_bytes: int) -> dict[str, Any]:
    from mlora_ray.bases.linear_shapes import state_bytes as size_of

    one = _Service(folder / "moves", [{"name": "large", "r": 1}], 2, base=base, is_started=False)
    rank = max(1, state_bytes // size_of(one.specs[0]))
    one.specs = [dataclasses.replace(s, lora=dataclasses.replace(s.lora, r=rank)) for s in one.specs]
    one.start()
    pauses = [one.drain_host_of("large") for _ in range(num_moves)]
    one.stop()
    return {
        "question": "move",
        "base": base,
        "moves": num_moves,
        "state_bytes": size_of(one.specs[0]),
        "move_pause_s": measure.median(pauses),
        "move_pause_max_s": max(pauses),
        "pauses_s": sorted(round(p, 3) for p in pauses),
    }


def _bundle(folder: Path, times: int, state_bytes: int) -> dict[str, Any]:
    import numpy as np

    from mlora_ray.store.bundles import bundle_uri, read_bundle, write_bundle

    buffers = np.random.default_rng(workloads.SEED).normal(size=(3, state_bytes // 12)).astype(np.float32)
    arrays = {f"buffer{i}": buffer for i, buffer in enumerate(buffers)}
    writes, reads = [], []
    for i in range(times):
        uri = bundle_uri(str(folder / "bundles"), "large", i, 1)
        began_s = time.perf_counter()
        write_bundle(uri, arrays, {"job": "large"})
        writes.append(time.perf_counter() - began_s)
        read_bundle(uri)
        reads.append(time.perf_counter() - began_s - writes[-1])
    both = [w + r for w, r in zip(writes, reads, strict=True)]
    return {
        "question": "bundle",
        "state_bytes": state_bytes,
        "write_s": measure.median(writes),
        "read_s": measure.median(reads),
        "bundle_s": measure.median(both),
        "bundle_max_s": max(both),
    }


class _Service:
    """One service, asked from outside as the command line asks it."""

    def __init__(
        self, folder: Path, jobs: list[dict[str, Any]], num_hosts: int, *, base: str = BASE, is_started: bool = True
    ) -> None:
        folder.mkdir()
        self._num_hosts = num_hosts
        self.settings = ServiceSettings(
            name=f"recovery-{folder.name}",
            storage=str(folder / "storage"),
            database_url=f"sqlite:///{folder}/control.db",
            policy="rebalance",
            host_types=(HostType(name="cpu", max_hosts=num_hosts, memory_limit_bytes=4 << 30),),
            autoscale=AutoscaleSettings(min_hosts=num_hosts, max_hosts=num_hosts),
            page_root=str(folder / "pages"),
        )
        self.specs = self._prepare(folder, jobs, base)
        if is_started:
            self.start()

    def _prepare(self, folder: Path, jobs: list[dict[str, Any]], base: str) -> list[JobSpec]:
        from mlora_ray.config.job_file import read_job_file
        from mlora_ray.prepare.job_specs import prepare

        sources = workloads.demo_sources(folder)
        written = [{**job, "train": str(sources[i % len(sources)])} for i, job in enumerate(jobs)]
        defaults = {"max_steps": STEPS, "max_length": 512, "batch_size": 2, "save_steps": 10}
        path = folder / "jobs.yaml"
        held = {"base": base, "dtype": "float32" if base == BASE else "bfloat16", "defaults": defaults, "jobs": written}
        path.write_text(yaml.safe_dump(held, sort_keys=False), encoding="utf-8")
        return prepare(read_job_file(path), self.settings.data_root)

    def start(self) -> None:
        from mlora_ray.actors.options import start_placement
        from mlora_ray.types.service import SubmitRequest

        self._placement = start_placement(self.settings)
        self._call("submit", SubmitRequest(specs=tuple(self.specs), command="benchmarks.recovery"))

    def stop(self) -> None:
        import ray

        self._call("stop", CALL_S)
        ray.kill(self._placement, no_restart=True)

    def when_even(self) -> dict[str, list[str]]:
        """Host to its jobs, once every host is alive and every job trains, as evenly as they can."""

        def even() -> dict[str, list[str]]:
            records = self._call("records")
            alive = [h.id for h in self._call("hosts") if h.state == "alive"]
            jobs = {host: [r.spec.name for r in records if r.host == host and r.state == "TRAINING"] for host in alive}
            loads = [len(names) for names in jobs.values()]
            is_even = len(alive) == self._num_hosts and sum(loads) == len(records) and max(loads) - min(loads) <= 1
            return jobs if is_even else {}

        found: dict[str, list[str]] = _until(even, "even hosts")
        time.sleep(2 * AROUND_S)  # a commit of everyone
        return found

    def kill(self, host: str) -> tuple[list[float], list[float]]:
        """Seconds until each of its jobs has made a step elsewhere; the longest gaps of other hosts, in ticks."""
        hosts = {h.id: h for h in self._call("hosts")}
        names = {r.spec.name for r in self._call("records") if r.host == host}
        last = self._call("events")[-1].id
        killed_s = time.time()
        os.kill(hosts[host].pid, signal.SIGKILL)

        def recovered() -> list[float]:
            at_s = {e.job: e.at_s for e in self._call("events", last) if e.kind == "recovered"}
            return [at_s[n] - killed_s for n in names] if names <= set(at_s) else []

        found = _until(recovered, f"the next step of {len(names)} jobs")
        time.sleep(AROUND_S)
        commits = [e for e in self._call("events") if e.kind == "saved" and e.at_s > killed_s - AROUND_S]
        ends_s = time.time()
        gaps = []
        for other in set(hosts) - {host}:
            times = [killed_s - AROUND_S, *(e.at_s for e in commits if e.host == other), ends_s]
            gaps.append(max(b - a for a, b in pairwise(times)) / self.settings.tick_s)
        return found, gaps

    def drain_host_of(self, job: str) -> float:
        """Seconds that the job stood still while it went to another host."""

        def at() -> str:
            record = self._call("records", (job,))[0]
            alive = [h.id for h in self._call("hosts") if h.state == "alive"]
            is_ready = record.state == "TRAINING" and len(alive) == self._num_hosts and record.host in alive
            is_ready = is_ready and self._call("status", (job,)).jobs[0].step > 2  # first steps take longer
            return record.host if is_ready else ""

        host = _until(at, "a host to move to")
        last = self._call("events")[-1].id
        self._call("drain", host)

        def moved() -> list[str]:
            events = self._call("events", last, job)
            if failed := [e.detail for e in events if e.kind in ("move_failed", "failed")]:
                raise RuntimeError(f"{job} did not move: {failed[0]}")
            return [e.detail for e in events if e.kind == "migrated"]

        detail = _until(moved, "the move")[0]
        return float(detail.rpartition("pause_s=")[2])

    def _call(self, method: str, *args: Any) -> Any:
        import ray

        return ray.get(getattr(self._placement, method).remote(*args), timeout=CALL_S)


def _until(ask: Callable[[], Any], what: str) -> Any:
    """The first answer that is true."""
    ends_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < ends_s:
        if found := ask():
            return found
        time.sleep(LOOK_EVERY_S)
    raise TimeoutError(f"{what}: not within {DEADLINE_S:g} s")


def print_table(result: dict[str, Any], console: Any = None) -> None:
    """The result as a person reads it."""
    from rich.console import Console
    from rich.table import Table

    kill, move, bundle = result["rows"]
    table = Table(title=f"Adapters that stand still: {kill['kills']} kills, {move['moves']} moves")
    for head in ("", "median", "worst", "bar"):
        table.add_column(head, justify="right" if head else "left")
    table.add_row("a host is killed", f"{kill['recovery_s']:.2f} s", f"{kill['recovery_max_s']:.2f} s", "5 s")
    others = f"{kill['others_median_ticks']:.2f} ticks"
    table.add_row("  its neighbours", others, f"{kill['others_ticks']:.2f} ticks", "2 ticks")
    size = f"{move['state_bytes'] / 1e6:.0f} MB"
    table.add_row(f"{size} move", f"{move['move_pause_s']:.3f} s", f"{move['move_pause_max_s']:.3f} s", "1 s")
    table.add_row(f"{size} by bundle", f"{bundle['bundle_s']:.3f} s", f"{bundle['bundle_max_s']:.3f} s", "")
    (console or Console()).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=NUM_JOBS)
    parser.add_argument("--hosts", type=int, default=NUM_HOSTS)
    parser.add_argument("--kills", type=int, default=NUM_KILLS)
    parser.add_argument("--moves", type=int, default=NUM_MOVES)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells of every process that dies
        found = run(num_jobs=given.jobs, num_hosts=given.hosts, num_kills=given.kills, num_moves=given.moves)
    print(json.dumps(found)) if given.json else print_table(found)
    merged = {key: value for row in found["rows"] for key, value in row.items()}
    sys.exit(any(merged[name] > bar for name, bar in BARS.items()))
