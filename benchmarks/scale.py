"""`python -m mlora_ray.benchmarks.scale`: one placement, 2,000 adapters in the database, 50 hosts.

The hosts are fakes of the host protocol in this process: they take one optimizer step of each of their adapters between
two ticks, and leave a small bundle file for each `--save-steps` of them, out of the clock. Everything else is the real
thing: policy, decision log, SQLite on disk, bundle files removed, metrics files written.

decision  a view for the policy and what it decides, written through: owners changed, one log line
tick      a whole `Control.tick`: beat, autoscaling, decision, 50 calls and their answers, commits, figures
restart   a new `Control` over the same database, until it has every host and every adapter again
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlora_ray.benchmarks import workloads
from mlora_ray.benchmarks.fake_hosts import FakeTransport, make_specs
from mlora_ray.clock import SystemClock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.metrics import Metrics
from mlora_ray.control.service import PlacementService
from mlora_ray.profiling import measure
from mlora_ray.types import AutoscaleSettings, HostType
from mlora_ray.types.service import SubmitRequest

NUM_ADAPTERS, NUM_HOSTS, NUM_TICKS, SAVE_STEPS = 2000, 50, 30, 50
POLICIES = ("fifo", "rebalance")
MAX_TICKS = 200
BARS = {"decision_ms": 50.0, "tick_ms": 200.0, "restart_s": 5.0}


def run(
    *,
    num_adapters: int = NUM_ADAPTERS,
    num_hosts: int = NUM_HOSTS,
    num_ticks: int = NUM_TICKS,
    save_steps: int = SAVE_STEPS,
    policies: Sequence[str] = POLICIES,
) -> dict[str, Any]:
    """{command, commit, machine, seed, rows}, a row for each policy."""
    rows = []
    for policy in policies:
        with tempfile.TemporaryDirectory(prefix="mlora-scale-") as folder:
            service = _Service(Path(folder), policy, num_adapters, num_hosts, save_steps)
            rows.append({"policy": policy, "adapters": num_adapters, "hosts": num_hosts, **service.figures(num_ticks)})
    return measure.result(1, workloads.SEED, rows, bars=BARS)


class _Service:
    """One placement over fakes, from its first tick to its restart."""

    def __init__(self, folder: Path, policy: str, num_adapters: int, num_hosts: int, save_steps: int) -> None:
        self._settings = ServiceSettings(
            storage=str(folder / "storage"),
            database_url=f"sqlite:///{folder}/control.db",
            policy=policy,
            host_types=(HostType(name="fake", max_hosts=num_hosts),),
            autoscale=AutoscaleSettings(min_hosts=num_hosts, max_hosts=num_hosts),
        )
        self._num_adapters, self._num_hosts = num_adapters, num_hosts
        self._specs = make_specs(num_adapters, save_steps)
        self._transport = FakeTransport()
        self._control = self._open()

    def _open(self) -> PlacementService:
        metrics = Metrics("scale", lambda spec, service: lambda value, tags: None)
        return PlacementService(self._settings, self._transport, SystemClock(), "scale", metrics)

    def figures(self, num_ticks: int) -> dict[str, Any]:
        began_s = time.perf_counter()
        self._control.submit(SubmitRequest(specs=tuple(self._specs)))
        submit_s = time.perf_counter() - began_s
        first = self._until(lambda: self._control, self._is_full)
        steady = [self._tick() for _ in range(num_ticks)]
        loss = self._lose_a_host()
        return {
            "submit_s": submit_s,
            "first_tick_ms": max(t for t, _ in first) * 1000,
            "first_decision_ms": max(d for _, d in first) * 1000,
            **_of("tick_ms", [t for t, _ in steady]),
            **_of("decision_ms", [d for _, d in steady]),
            **_of("loss_tick_ms", [t for t, _ in loss]),
            **_of("loss_decision_ms", [d for _, d in loss]),
            **self._restart(),
            "commits": self._transport.num_commits,
        }

    def _tick(self, control: PlacementService | None = None) -> tuple[float, float]:
        """Seconds of the tick and of its decision; the hosts train outside of it."""
        self._transport.train()
        spent: list[float] = []
        control = control or self._control
        with _timed_decisions(control, spent):
            began_s = time.perf_counter()
            control.tick()
            tick_s = time.perf_counter() - began_s
        return tick_s, sum(spent)

    def _until(self, control: Callable[[], PlacementService], is_so: Callable[[], bool]) -> list[tuple[float, float]]:
        spent = []
        for _ in range(MAX_TICKS):
            spent.append(self._tick(control()))
            if is_so():
                return spent
        raise RuntimeError(f"after {MAX_TICKS} ticks it is still not so: {self._control.status().counts()}")

    def _is_full(self) -> bool:
        placement = self._control.placement
        hosts = placement.hosts.living()
        placed = sum(len(placement.jobs.on(host.name)) for host in hosts)
        training = sum(len(h.jobs) for h in self._transport.living)
        return len(hosts) == self._num_hosts and placed == training == self._num_adapters

    def _lose_a_host(self) -> list[tuple[float, float]]:
        self._transport.living[0].is_dead = True
        return self._until(lambda: self._control, self._is_full)

    def _restart(self) -> dict[str, float]:
        """The database is left as a killed process leaves it."""
        began_s = time.perf_counter()
        self._control = self._open()
        opened_s = time.perf_counter() - began_s
        ticks = self._until(lambda: self._control, self._is_full)
        return {"open_s": opened_s, "restart_s": opened_s + sum(t for t, _ in ticks), "restart_ticks": len(ticks)}


@contextlib.contextmanager
def _timed_decisions(control: PlacementService, spent: list[float]) -> Iterator[None]:
    """Put the seconds of each view and decision into `spent`."""
    placement = control.placement
    asked: dict[str, Callable[..., Any]] = {"view": placement.view, "decide": placement.decide}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - began_s)

        return call

    for name, function in asked.items():
        setattr(placement, name, timed(function))
    try:
        yield
    finally:
        for name in asked:
            delattr(placement, name)


def _of(name: str, seconds: Sequence[float]) -> Mapping[str, float]:
    """Median and worst, in ms."""
    return {name: measure.median([s * 1000 for s in seconds]), f"{name}_max": max(seconds) * 1000}


def print_table(result: dict[str, Any], console: Any = None) -> None:
    """The result as a person reads it."""
    from rich.console import Console
    from rich.table import Table

    first = result["rows"][0]
    table = Table(title=f"One placement, {first['adapters']:,} adapters, {first['hosts']} hosts: median (worst)")
    for head in ("policy", "decision", "tick", "tick, a host lost", "all placed at once", "restart"):
        table.add_column(head, justify="left" if head == "policy" else "right")
    for row in result["rows"]:
        pairs = [f"{row[k]:.0f} ({row[k + '_max']:.0f}) ms" for k in ("decision_ms", "tick_ms", "loss_tick_ms")]
        table.add_row(row["policy"], *pairs, f"{row['first_tick_ms']:.0f} ms", f"{row['restart_s']:.2f} s")
    (console or Console()).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=NUM_ADAPTERS)
    parser.add_argument("--hosts", type=int, default=NUM_HOSTS)
    parser.add_argument("--ticks", type=int, default=NUM_TICKS)
    parser.add_argument("--save-steps", type=int, default=SAVE_STEPS)
    parser.add_argument("--policy", nargs="+", default=POLICIES)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = run(
        num_adapters=given.adapters,
        num_hosts=given.hosts,
        num_ticks=given.ticks,
        save_steps=given.save_steps,
        policies=given.policy,
    )
    print(json.dumps(found)) if given.json else print_table(found)
    sys.exit(any(row[name] > bar for row in found["rows"] for name, bar in BARS.items()))
