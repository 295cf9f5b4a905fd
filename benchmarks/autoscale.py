"""`python -m mlora_ray.benchmarks.autoscale`: from no worker to all jobs done to no worker, on a real autoscaler.

Jobs on the tiny base are submitted to a service on a cluster without workers. Its autoscaler (v2) starts fake nodes,
spot and on demand; a spot node is killed on the way; all jobs end; all nodes go. The budget is read off the nodes and
off the hosts table all the time. Exit code 1 where a job did not succeed, a step is missing or the budget was passed.
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
from pathlib import Path
from typing import Any

import yaml

from mlora_ray.benchmarks import workloads
from mlora_ray.benchmarks.fake_nodes import FakeNodes, NodeType
from mlora_ray.profiling import measure

NUM_JOBS = 40
MAX_HOSTS = 4
STEPS = 200
IDLE_S = 6.0
PRICES = {"spot": 1.0, "steady": 3.0}
MAX_COST = 8.0  # two of each
BASE = "tiny-llama"
LOOK_EVERY_S = 0.25
DEADLINE_S = 900.0
CALL_S = 120.0


def run(*, num_jobs: int = NUM_JOBS, max_hosts: int = MAX_HOSTS, steps: int = STEPS) -> dict[str, Any]:
    """{command, commit, machine, seed, rows} with one row. Raises TimeoutError when a stage does not come."""
    import ray

    os.environ.update({"RAY_AUTH_MODE": "disabled", "RAY_SCHEDULER_EVENTS": "0"})
    types = [NodeType(name, 1, {"market": name}, max_hosts) for name in PRICES]
    with tempfile.TemporaryDirectory(prefix="mlora-bench-") as held, FakeNodes(types, IDLE_S) as nodes:
        folder = Path(held)
        job_file, settings = _write_jobs(folder, num_jobs, steps), _write_settings(folder, max_hosts)
        ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
        try:
            row = _Drill(nodes, job_file, settings).run()
        finally:
            ray.shutdown()
    return measure.result(1, workloads.SEED, [{"jobs": num_jobs, "max_hosts": max_hosts, "steps": steps, **row}])


def _write_settings(folder: Path, max_hosts: int) -> Path:
    types = [
        {"name": name, "labels": {"market": name}, "is_spot": name == "spot", "price_per_hour": price}
        for name, price in PRICES.items()
    ]
    held = {
        "storage": str(folder / "storage"),
        "policy": "rebalance",
        "page_root": str(folder / "pages"),
        "max_hosts": max_hosts,
        "max_cost_per_hour": MAX_COST,
        "spot_share": 0.5,
        "jobs_per_host": 4,
        "down_delay_s": 5,
        "node_idle_timeout_s": IDLE_S + 4,
        "tick_s": 0.5,
        "host_types": types,
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(held, sort_keys=False), encoding="utf-8")
    return path


def _write_jobs(folder: Path, num_jobs: int, steps: int) -> Path:
    data = folder / "data"
    data.mkdir()
    sources = workloads.demo_sources(data)
    jobs = [
        {"name": f"job-{i:02d}", "train": str(sources[i % len(sources)]), "r": 4, "seed": i} for i in range(num_jobs)
    ]
    defaults = {"max_steps": steps, "max_length": 512, "batch_size": 2, "save_steps": 20}
    path = folder / "jobs.yaml"
    held = {"base": BASE, "dtype": "float32", "defaults": defaults, "jobs": jobs}
    path.write_text(yaml.safe_dump(held, sort_keys=False), encoding="utf-8")
    return path


@dataclasses.dataclass(frozen=True, slots=True)
class _Look:
    """Nodes and hosts at one moment. A node may be lost between two looks, never unseen."""

    at_s: float
    nodes: dict[str, str]  # node id -> market
    hosts: tuple[tuple[str, str, str, str], ...]  # id, host type, state, node id


class _Drill:
    """One run of the whole thing, in stages."""

    def __init__(self, nodes: FakeNodes, job_file: Path, settings: Path) -> None:
        self._nodes, self._job_file, self._settings = nodes, job_file, settings
        self._started_s = time.monotonic()
        self._looks: list[_Look] = []

    def run(self) -> dict[str, Any]:
        from mlora_ray.actors.client import Service
        from mlora_ray.actors.options import start_placement
        from mlora_ray.config.cluster_settings import read_settings
        from mlora_ray.config.job_file import load_job_file
        from mlora_ray.prepare.job_specs import prepare
        from mlora_ray.store.database.control_database import ControlDatabase
        from mlora_ray.types.service import SubmitRequest

        settings = read_settings(str(self._settings))
        specs = prepare(load_job_file(self._job_file), settings.data_root)
        self._service = Service(start_placement(settings), settings.name)
        self._service.submit(SubmitRequest(specs=tuple(specs), command="benchmarks.autoscale"))
        self._db = ControlDatabase(settings.database_url)
        self._started_s = time.monotonic()
        times = {"first_host_s": self._until(lambda look: any(h[2] == "alive" for h in look.hosts), "a host")}
        times["killed_s"], killed = self._kill_a_spot_node()
        times["replaced_s"] = self._until(
            lambda look: self._is_replaced(killed) or self._is_done(), "a host in its place"
        )
        times["all_done_s"] = self._until(lambda look: self._is_done(), "all jobs done")
        times["zero_hosts_s"] = self._until(lambda look: not look.hosts, "no host")
        times["zero_nodes_s"] = self._until(lambda look: not look.nodes, "no node")
        row = {k: round(v, 1) for k, v in times.items()} | self._figures(len(specs))
        self._service.stop()
        self._db.close()
        return row

    def _kill_a_spot_node(self) -> tuple[float, str]:
        """Once a spot host has jobs that have made steps: its raylet, with -9."""

        def victim(look: _Look) -> str:
            busy = {r.host for r in self._db.jobs() if r.step > 0 and not r.state.is_final}
            return next((h[3] for h in look.hosts if h[1] == "spot" and h[2] == "alive" and h[0] in busy), "")

        at_s = self._until(lambda look: bool(victim(look)), "a spot host at work")
        node = victim(self._looks[-1])
        self._nodes.kill_node(node)
        return at_s, node

    def _is_done(self) -> bool:
        return all(record.state.is_final for record in self._db.jobs())

    def _is_replaced(self, killed: str) -> bool:
        """Whether a host was launched after the one on this node was lost."""
        rows = self._db.hosts(is_gone_included=True)
        lost = next(row for row in rows if row.node_id == killed)
        return lost.gone_at_s is not None and any(row.launched_at_s >= lost.gone_at_s for row in rows)

    def _until(self, is_there: Callable[[_Look], bool], what: str) -> float:
        """Look until it is there; answers seconds since the submission."""
        while True:
            look = self._look()
            self._looks.append(look)
            if is_there(look):
                return look.at_s
            if look.at_s > DEADLINE_S:
                raise TimeoutError(f"{what} did not come: {look}\n{self._nodes.trouble()}")
            time.sleep(LOOK_EVERY_S)

    def _look(self) -> _Look:
        import ray

        alive = [n for n in ray.nodes() if n["Alive"] and "market" in n["Labels"]]
        return _Look(
            time.monotonic() - self._started_s,
            {n["NodeID"]: n["Labels"]["market"] for n in alive},
            tuple((r.settings.id, r.settings.host_type, r.state, r.node_id) for r in self._db.hosts()),
        )

    def _figures(self, num_jobs: int) -> dict[str, Any]:
        records = self._db.jobs()
        whole = [
            r.spec.name
            for r in records
            if [s.step for s, _ in self._db.steps(r.spec.name)] == list(range(1, r.spec.total_steps + 1))
        ]
        hosts = self._db.hosts(is_gone_included=True)
        return {
            "succeeded": sum(r.state == "SUCCEEDED" for r in records),
            "with_every_step_once": len(whole),
            "hosts_launched": len(hosts),
            "node_seconds": {market: round(self._node_seconds(market), 1) for market in PRICES},
            "most_hosts": max(len(look.hosts) for look in self._looks),
            "most_nodes": max(len(look.nodes) for look in self._looks),
            "max_cost_per_hour": MAX_COST,
            "most_cost_of_hosts": max(sum(PRICES[h[1]] for h in look.hosts) for look in self._looks),
            "most_cost_of_nodes": max(sum(PRICES[m] for m in look.nodes.values()) for look in self._looks),
            "looks": len(self._looks),
        }

    def _node_seconds(self, market: str) -> float:
        pairs = zip(self._looks, self._looks[1:], strict=False)
        return sum((after.at_s - look.at_s) * list(look.nodes.values()).count(market) for look, after in pairs)


def is_as_promised(row: dict[str, Any]) -> bool:
    """Every job done, every step once, the budget kept by hosts and nodes. Zero was waited for."""
    return bool(
        row["succeeded"] == row["with_every_step_once"] == row["jobs"]
        and max(row["most_hosts"], row["most_nodes"]) <= row["max_hosts"]
        and max(row["most_cost_of_hosts"], row["most_cost_of_nodes"]) <= row["max_cost_per_hour"]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=NUM_JOBS)
    parser.add_argument("--max-hosts", type=int, default=MAX_HOSTS)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the nodes end with us
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints the killed node's last words
        found = run(num_jobs=given.jobs, max_hosts=given.max_hosts, steps=given.steps)
    print(json.dumps(found))
    sys.exit(0 if is_as_promised(found["rows"][0]) else 1)
