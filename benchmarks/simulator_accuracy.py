"""`python -m mlora_ray.benchmarks.simulator_accuracy`: does the simulator foresee what real hosts do?

A short trace with Philly's statistics, its time scaled so that a job takes seconds, once on real Ray hosts of the tiny
base and once in the simulator with this machine's own profile: the same jobs, the same policy objects. The profile and
the seconds that a placement takes are measured here first. Prints mean completion times side by side, whatever they
are.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlora_ray.actors import local_cluster
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import StepTimeModel, StepTimes
from mlora_ray.profiling import measure
from mlora_ray.simulate.results import Costs, Outcome, SimHost, SimJob
from mlora_ray.simulate.simulation import Simulation
from mlora_ray.simulate.traces import filter_rows, read_trace
from mlora_ray.simulate.workload import WorkloadSettings, make_window
from mlora_ray.types import AutoscaleSettings, BaseSpec, HostType, JobSpec, LoraSpec, RowsRef, TrainSpec

BASE, DTYPE = "tiny-llama", "float32"
POLICIES = ("independent", "tlora", "rate-remaining")  # independent: first come first served, a host each
NUM_JOBS, NUM_HOSTS, LOAD, STEP_TOKENS, JOB_S, SEED = 30, 2, 1.2, 200.0, 8.0, 5
TICK_S = 0.25
PROBE_STEPS = 20
CALL_S, RUN_S, LOOK_EVERY_S = 180.0, 1500.0, 0.1


def run(
    *, num_jobs: int = NUM_JOBS, num_hosts: int = NUM_HOSTS, policies: Sequence[str] = POLICIES, job_s: float = JOB_S
) -> dict[str, Any]:
    """{command, commit, machine, seed, rows}: a row a policy, its mean completion times and their ratio."""
    from mlora_ray.bases.resolve import resolve_base

    base = resolve_base(BASE, DTYPE)
    with tempfile.TemporaryDirectory(prefix="mlora-bench-") as held:
        folder = Path(held)
        model = _profile(folder)
        jobs = make_jobs(model, num_jobs, num_hosts, job_s)
        rows = []
        with local_cluster.embedded(num_cpus=num_hosts, note=folder / "ray"):
            for policy in policies:
                live = _Live(folder / policy, policy, base, jobs, num_hosts, model)
                found, place_s = live.run()
                costs = Costs(place_s=place_s, pause_s=TICK_S, migrate_s=place_s)
                rows.append(_compared(policy, jobs, found, simulate(policy, jobs, num_hosts, model, costs), place_s))
    ranks = [sorted(rows, key=lambda row: row[key]) for key in ("live_mean_jct_s", "simulated_mean_jct_s")]
    same = [row["policy"] for row in ranks[0]] == [row["policy"] for row in ranks[1]]
    more = {"jobs": num_jobs, "hosts": num_hosts, "has_same_ranking": same}
    return measure.result(1, SEED, rows, **more, profile=dataclasses.asdict(model))


def _profile(folder: Path) -> StepTimeModel:
    """Of this machine, made as `mlora-ray profile` makes it."""
    from mlora_ray.config.step_time_profiles import read_profile
    from mlora_ray.profiling.run import ProfileOptions, run_profile

    path = str(folder / "profile.json")
    options = ProfileOptions(
        base=BASE,
        dtype=DTYPE,
        threads=1,
        ranks=(2, 16),
        max_tokens=1024,
        has_memory=False,
        out=path,
        command="",
        date="",
    )
    run_profile(options, lambda line: None)
    return read_profile(path)


def make_jobs(model: StepTimeModel, num_jobs: int, num_hosts: int, job_s: float) -> list[SimJob]:
    """Narrow jobs of a synthetic trace; a mean one takes `job_s` alone. Rows, steps and tokens are whole numbers."""
    rows = [row for row in filter_rows(read_trace("synthetic:philly", SEED)).rows if row.num_devices == 1]
    settings = WorkloadSettings(
        num_jobs=num_jobs, num_hosts=num_hosts, load=LOAD, step_tokens=STEP_TOKENS, bases=(model.base,)
    )
    window = make_window(rows, settings, StepTimes([model]), SEED)
    scale = job_s / (sum(job.duration_s for job in window) / num_jobs)
    return [_scaled(job, model, scale) for job in window]


def _scaled(job: SimJob, model: StepTimeModel, scale: float) -> SimJob:
    length = max(4, round(job.row_tokens))
    step_tokens = job.rows * length
    tokens_s = model.solo_tokens_s(step_tokens, job.lora_rank)
    steps = max(1, round(job.duration_s * scale * tokens_s / step_tokens))
    tokens = float(steps * step_tokens)
    return dataclasses.replace(
        job,
        submit_s=job.submit_s * scale,
        row_tokens=float(length),
        tokens=tokens,
        declared_tokens=tokens,
        solo_tokens_s=tokens_s,
        duration_s=tokens / tokens_s,
        state_bytes=0,
    )


def simulate(policy: str, jobs: Sequence[SimJob], num_hosts: int, model: StepTimeModel, costs: Costs) -> Outcome:
    """The same jobs under the same policy on the virtual clock."""
    step_times = StepTimes([model])
    hosts = [SimHost(id=f"cpu-{at}", base=model.base, device_type=model.device_type) for at in range(num_hosts)]
    return Simulation(jobs, hosts, step_times, load_policy(policy, step_times), costs).run()


def _compared(
    policy: str, jobs: Sequence[SimJob], live: dict[str, float], simulated: Outcome, place_s: float
) -> dict[str, Any]:
    foreseen = {one.job.id: one.completion_s for one in simulated.jobs}
    live_mean, simulated_mean = sum(live.values()) / len(jobs), sum(foreseen.values()) / len(jobs)
    errors = sorted(abs(foreseen[name] / seconds - 1) for name, seconds in live.items())
    return {
        "policy": policy,
        "live_mean_jct_s": live_mean,
        "simulated_mean_jct_s": simulated_mean,
        "simulated_over_live": simulated_mean / live_mean,
        "live_max_jct_s": max(live.values()),
        "simulated_max_jct_s": max(foreseen.values()),
        "median_error_of_a_job": errors[len(errors) // 2],
        "place_s": place_s,
    }


class _Live:
    """One policy on real hosts, asked from outside as the command line asks it."""

    def __init__(
        self,
        folder: Path,
        policy: str,
        base: BaseSpec,
        jobs: Sequence[SimJob],
        num_hosts: int,
        model: StepTimeModel,
    ) -> None:
        folder.mkdir()
        self._jobs, self._num_hosts = jobs, num_hosts
        probe = dataclasses.replace(jobs[0], tokens=PROBE_STEPS * jobs[0].step_tokens)
        self._probes = [
            _spec(folder, dataclasses.replace(probe, id=f"probe-{at}"), base) for at in range(2 * num_hosts)
        ]
        self._probe_s = PROBE_STEPS * model.step_s(probe.step_tokens, 1, probe.step_tokens * probe.lora_rank)
        self._specs = {job.id: _spec(folder, job, base) for job in jobs}
        self._settings = ServiceSettings(
            name=f"truth-{policy.replace('.', '-')}",
            storage=str(folder / "storage"),
            database_url=f"sqlite:///{folder}/control.db",
            policy=policy,
            host_types=(HostType(name="cpu", max_hosts=num_hosts, memory_limit_bytes=4 << 30),),
            autoscale=AutoscaleSettings(min_hosts=num_hosts, max_hosts=num_hosts),
            page_root=str(folder / "pages"),
            base_profiles=(model,),
            max_uncommitted_steps=1_000_000,  # a pause for storage after so many steps is no part of placement
            tick_s=TICK_S,
        )

    def run(self) -> tuple[dict[str, float], float]:
        """Completion time of every job, and what a placement adds to a job's own time."""
        import ray

        from mlora_ray.actors.options import start_placement

        self._placement = start_placement(self._settings)
        try:
            place_s = self._probe()
            began_s = time.time()
            for job in self._jobs:
                time.sleep(max(0.0, began_s + job.submit_s - time.time()))
                self._submit(self._specs[job.id])
            ended = self._wait(list(self._specs))
            return {job.id: ended[job.id] - began_s - job.submit_s for job in self._jobs}, place_s
        finally:
            self._call("stop", CALL_S)
            ray.kill(self._placement, no_restart=True)

    def _probe(self) -> float:
        """Short jobs on idle hosts, after one each that warms the host up: their time beyond their steps, median."""
        for spec in self._probes[: self._num_hosts]:
            self._submit(spec)
        self._wait([spec.name for spec in self._probes[: self._num_hosts]])
        found = []
        for spec in self._probes[self._num_hosts :]:
            began_s = time.time()
            self._submit(spec)
            found.append(self._wait([spec.name])[spec.name] - began_s - self._probe_s)
        return max(0.0, measure.median(found))

    def _submit(self, spec: JobSpec) -> None:
        from mlora_ray.types.service import SubmitRequest

        self._call("submit", SubmitRequest(specs=(spec,), command="benchmarks.truth"))

    def _wait(self, names: list[str]) -> dict[str, float]:
        """When each has succeeded, seconds since the Unix epoch."""
        until_s = time.monotonic() + RUN_S
        while time.monotonic() < until_s:
            ended = {e.job: e.at_s for e in self._call("events") if e.kind == "succeeded"}
            failed = [r for r in self._call("records") if r.state == "FAILED"]
            if failed:
                raise RuntimeError(f"{failed[0].spec.name} failed: {failed[0].error}")
            if set(names) <= set(ended):
                return ended
            time.sleep(LOOK_EVERY_S)
        raise TimeoutError(f"{len(names)} jobs: not done within {RUN_S:g} s")

    def _call(self, method: str, *args: Any) -> Any:
        import ray

        return ray.get(getattr(self._placement, method).remote(*args), timeout=CALL_S)


def _spec(folder: Path, job: SimJob, base: BaseSpec) -> JobSpec:
    """A job of the same steps, rows and rank; its tokens are random."""
    import numpy as np

    from mlora_ray.data.tokenized_rows import make_rows, rows_sha256, to_bytes

    rng = np.random.default_rng(math.prod(map(ord, job.id)) % 2**32)
    length, steps = int(job.row_tokens), round(job.tokens / job.step_tokens)
    rows = make_rows([(rng.integers(5, 300, length).tolist(), [True] * length) for _ in range(job.rows)])
    path = folder / f"{rows_sha256(rows)}.rows"
    path.write_bytes(to_bytes(rows))
    ref = RowsRef(
        uri=str(path),
        sha256=rows_sha256(rows),
        source=job.id,
        num_rows=job.rows,
        num_tokens=len(rows.tokens),
        num_target_tokens=int(rows.num_targets().sum()),
        num_truncated=0,
        max_row_tokens=length,
    )
    train = TrainSpec(max_steps=steps, num_epochs=0, batch_size=job.rows, save_steps=0, max_length=length)
    return JobSpec(
        name=job.id, base=base, lora=LoraSpec(r=job.lora_rank), train=train, train_rows=ref, total_steps=steps,
        tenant=job.tenant,
    )  # fmt: skip


def print_table(result: dict[str, Any], console: Any = None) -> None:
    """The result as a person reads it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Mean completion time of {result['jobs']} jobs on {result['hosts']} hosts: live and foreseen")
    for head in ("policy", "live", "simulated", "simulated / live", "slowest live", "slowest simulated"):
        table.add_column(head, justify="left" if head == "policy" else "right")
    for row in result["rows"]:
        cells = [f"{row[key]:.2f} s" for key in ("live_mean_jct_s", "simulated_mean_jct_s")]
        longest = [f"{row[key]:.1f} s" for key in ("live_max_jct_s", "simulated_max_jct_s")]
        table.add_row(row["policy"], *cells, f"{row['simulated_over_live']:.3f}", *longest)
    out = console or Console()
    out.print(table)
    out.print(f"same ranking: {result['has_same_ranking']}", highlight=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--jobs", type=int, default=NUM_JOBS)
    parser.add_argument("--job-s", type=float, default=JOB_S, help="mean seconds of a job alone")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        result = run(policies=tuple(given.policies.split(",")), num_jobs=given.jobs, job_s=given.job_s)
    print(json.dumps(result)) if given.json else print_table(result)
