"""Chaos runs of several seeds on one cluster, each compared with the run that nobody disturbed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.drill import Drill, make_jobs, run_to_the_end
from tests.chaos.faults import disturb
from tests.chaos.machines import Machines
from tests.chaos.plan import Plan, plan
from tests.postgres import PostgresServer

NUM_STEPS = 250  # of each job: a quiet run takes a quarter of a minute on two idle cores


class Suite:
    """A cluster, the jobs, and the hashes that an undisturbed run gives."""

    def __init__(self, machines: Machines, folder: Path, num_steps: int) -> None:
        self.machines, self._folder = machines, folder
        data = folder / "data"
        data.mkdir()
        self.specs = make_jobs(data, num_steps)
        self.quiet = self._run("quiet", None, None)

    def run(self, seed: int, server: PostgresServer | None) -> Plan:
        """Raises AssertionError when anything is not as in the undisturbed run; `server` for plans on PostgreSQL."""
        planned = plan(seed)
        print(planned, flush=True)
        began_s = time.monotonic()
        found = self._run(f"seed-{seed}", planned, server if planned.database == "postgresql" else None)
        different = {name for name in self.quiet if found.get(name) != self.quiet[name]}
        assert not different, f"seed {seed}: other bits in {sorted(different)}"
        print(f"  seed {seed}: identical after {time.monotonic() - began_s:.1f} s", flush=True)
        return planned

    def drill(self, name: str, database_url: str = "", **settings: Any) -> Drill:
        """A service for the jobs of this suite, not yet running."""
        return Drill(self.machines, self._folder / f"{name}-{time.time_ns():x}", self.specs, database_url, **settings)

    def _run(self, name: str, planned: Plan | None, server: PostgresServer | None) -> dict[str, str]:
        drill = self.drill(name, server.new_database() if server is not None else "")
        hashes = run_to_the_end(drill, disturb(planned, server) if planned is not None else None)
        shutil.rmtree(drill.folder)
        return hashes


@contextmanager
def new_suite(num_steps: int = NUM_STEPS) -> Iterator[Suite]:
    """Raises NotInstalled."""
    with tempfile.TemporaryDirectory(prefix="mlora-chaos-runs-") as folder:
        machines = Machines.started()
        try:
            yield Suite(machines, Path(folder), num_steps)
        finally:
            machines.stop()
