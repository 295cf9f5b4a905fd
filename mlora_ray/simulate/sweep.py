"""Many simulations: policies x loads x regimes x windows, and the table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlora_ray.errors import InputError, Mistake
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.metrics import Figures, geometric_mean, interval, measure, plain
from mlora_ray.simulate.results import Costs, Outcome, SimHost, SimJob
from mlora_ray.simulate.simulation import Simulation
from mlora_ray.simulate.traces import TraceRow
from mlora_ray.simulate.workload import WorkloadSettings, hosts_of_bases, make_window

BASELINES = (
    "independent",
    "backfill",
    "srpt",
    "las",
    "timeslice",
    "mlora-optimal-fit",
    "mlora-trivial",
    "mlora-fast-fit",
    "tlora-1.3",
    "tlora-2.0",
)
ABLATIONS = ("rate-remaining-no-fusion", "rate-remaining-no-preemption")
ALL_POLICIES = (*BASELINES, "rate-remaining", *ABLATIONS)
# `tlora` in a table is the better of its bounds, cell by cell.
BOUNDS = {"tlora": ("tlora-1.3", "tlora-2.0")}


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSettings:
    """What is compared on what."""

    policies: tuple[str, ...] = ALL_POLICIES
    loads: tuple[float, ...] = (0.9,)
    regimes: tuple[float, ...] = (700.0,)
    num_windows: int = 3
    seed: int = 0  # of the first window
    workload: WorkloadSettings = field(default_factory=WorkloadSettings)
    costs: Costs = field(default_factory=Costs)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationRun:
    """One policy on one window."""

    policy: str
    load: float
    regime: float
    seed: int
    figures: Figures
    outcome: Outcome | None = None


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Policies to run for the names asked for. Raises InputError for one that is not there."""
    found: list[str] = []
    for name in names:
        try:
            load_policy(name)
        except ValueError as error:
            mistake = Mistake(
                file="command line", field="policies", value=name, allowed=f"ones that can be loaded: {error}"
            )
            raise InputError([mistake]) from error
        found += BOUNDS.get(name, (name,))
    return tuple(dict.fromkeys(found))


def spread_hosts(settings: WorkloadSettings) -> list[SimHost]:
    """Hosts for the bases by their share of the work."""
    bases = [base for base, num in hosts_of_bases(settings).items() for _ in range(num)]
    return [SimHost(id=f"h{at:03d}", base=base, device_type=settings.device_type) for at, base in enumerate(bases)]


def simulate_one(
    name: str, jobs: Sequence[SimJob], settings: WorkloadSettings, step_times: StepTimes, costs: Costs | None = None
) -> Outcome:
    """One policy, by its name, on one window."""
    policy = load_policy(name, step_times)
    return Simulation(jobs, spread_hosts(settings), step_times, policy, costs).run()


def run_sweep(
    rows: Sequence[TraceRow],
    settings: SweepSettings,
    step_times: StepTimes,
    has_run: Callable[[str, float, float, int], bool] = lambda *_: False,
) -> Iterator[SimulationRun]:
    """Every simulation that `has_run` does not say is there already, one at a time."""
    for load in settings.loads:
        for regime in settings.regimes:
            workload = dataclasses.replace(settings.workload, load=load, step_tokens=regime)
            for seed in range(settings.seed, settings.seed + settings.num_windows):
                jobs: list[SimJob] = []
                for name in settings.policies:
                    if has_run(name, load, regime, seed):
                        continue
                    jobs = jobs or make_window(rows, workload, step_times, seed)
                    outcome = simulate_one(name, jobs, workload, step_times, settings.costs)
                    figures = measure(outcome, workload.num_hosts, step_times, workload.device_type)
                    yield SimulationRun(
                        policy=name, load=load, regime=regime, seed=seed, figures=figures, outcome=outcome
                    )


def table(runs: Sequence[SimulationRun]) -> list[dict[str, Any]]:
    """A row a cell and policy: geometric means over windows, with a 95% interval of the mean and p99.

    `tlora` is added where both of its bounds were run: the better one by mean completion time.
    """
    cells: dict[tuple[float, float], dict[str, list[Figures]]] = {}
    for run in runs:
        cells.setdefault((run.load, run.regime), {}).setdefault(run.policy, []).append(run.figures)
    rows: list[dict[str, Any]] = []
    for (load, regime), by_policy in cells.items():
        found = {name: _row(name, load, regime, held) for name, held in by_policy.items()}
        for name, bounds in BOUNDS.items():
            if all(b in found for b in bounds):
                best = min((found[b] for b in bounds), key=lambda row: row["mean_jct_s"])
                found[name] = {**best, "policy": name, "bound_used": best["policy"]}
        rows += found.values()
    return rows


def _row(policy: str, load: float, regime: float, held: Sequence[Figures]) -> dict[str, Any]:
    every = [plain(f) for f in held]
    row: dict[str, Any] = {"policy": policy, "load": load, "regime": regime, "num_windows": len(held)}
    for name in every[0]:
        values = [one[name] for one in every]
        has_ratio = name.endswith(("_s", "_ratio", "_slowdown")) and min(values) > 0
        row[name] = geometric_mean(values) if has_ratio else sum(values) / len(values)
    for name in ("mean_jct_s", "p99_jct_s"):
        row[f"{name}_interval"] = interval([one[name] for one in every])
    row["max_decision_ms"] = max(one["max_decision_ms"] for one in every)
    return row


def as_lines(run: SimulationRun) -> Mapping[str, Any]:
    """One JSON line of a run."""
    return {"policy": run.policy, "load": run.load, "regime": run.regime, "seed": run.seed, **plain(run.figures)}


def from_line(line: Mapping[str, Any]) -> SimulationRun:
    """The run that `as_lines` wrote."""
    names = {f.name for f in dataclasses.fields(Figures)}
    figures = Figures(**{name: value for name, value in line.items() if name in names})
    return SimulationRun(
        policy=line["policy"], load=line["load"], regime=line["regime"], seed=line["seed"], figures=figures
    )
