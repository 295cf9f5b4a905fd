"""The grid of placement policies, resumable: `python -m mlora_ray.benchmarks.policies TRACE OUT.jsonl [options]`.

Every simulation becomes one JSON line; a second call runs what is missing, for at most `--minutes`. `--table` prints
what is there: each policy's mean and p99 completion time against `tlora` (the better of its two bounds, cell by cell).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlora_ray.config.step_time_profiles import read_profile
from mlora_ray.policies.models.step_time import StepTimeModel, StepTimes
from mlora_ray.simulate.metrics import geometric_mean
from mlora_ray.simulate.run import read_lengths
from mlora_ray.simulate.sweep import (
    ALL_POLICIES,
    SimulationRun,
    SweepSettings,
    as_lines,
    expand,
    from_line,
    run_sweep,
    table,
)
from mlora_ray.simulate.traces import DAY_S, filter_rows, read_trace
from mlora_ray.simulate.workload import WorkloadSettings

SET_B_PROFILES = ("h100-llama-3.1-8b", "h100-qwen-32b", "h100-llama-3-70b")


def main() -> None:
    options = _options()
    out = Path(options.out)
    held = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    if not options.table:
        _run(options, out, held)
        held = [json.loads(line) for line in out.read_text().splitlines()]
    wanted = expand(options.policies.split(","))
    runs = [from_line(line) for line in held if line["policy"] in wanted]
    for line in compare(table(common(runs))):
        print(line)


def common(runs: Sequence[SimulationRun]) -> list[SimulationRun]:
    """Only the windows that every policy of a cell has run on: nobody is compared on others' windows."""
    names: dict[tuple[float, float], set[str]] = {}
    ran: dict[tuple[float, float, int], set[str]] = {}
    for run in runs:
        names.setdefault((run.load, run.regime), set()).add(run.policy)
        ran.setdefault((run.load, run.regime, run.seed), set()).add(run.policy)
    return [r for r in runs if ran[r.load, r.regime, r.seed] == names[r.load, r.regime]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", help="philly:FILE, synthetic:philly, ...")
    parser.add_argument("out", help="JSON lines, added to")
    parser.add_argument("--policies", default=",".join(ALL_POLICIES))
    parser.add_argument("--loads", default="0.6,0.9,1.2,1.5")
    parser.add_argument("--regimes", default="70,178,700,1400,4400")
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--days", type=float, default=1.0, help="longest job")
    parser.add_argument("--size-sigma", type=float, default=0.0)
    parser.add_argument("--unknown-sizes", action="store_true")
    parser.add_argument("--profile", default="h100-llama-3.1-8b")
    parser.add_argument("--set-b", action="store_true", help="four bases by Zipf, ranks 8 to 64")
    parser.add_argument("--lengths", default="", help="of rows, for --set-b: a CSV as Azure publishes them")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--table", action="store_true", help="run nothing")
    return parser.parse_args()


def _run(options: argparse.Namespace, out: Path, held: Sequence[dict[str, Any]]) -> None:
    until = time.monotonic() + 60 * options.minutes
    models = _set_b() if options.set_b else [read_profile(options.profile)]
    rows = filter_rows(read_trace(options.trace), max_s=options.days * DAY_S).rows
    workload = WorkloadSettings(
        num_jobs=options.jobs,
        num_hosts=options.hosts,
        bases=tuple(model.base for model in models),
        is_set_b=options.set_b,
        lengths=read_lengths(options.lengths) if options.lengths else (),
        size_sigma=options.size_sigma,
        is_size_known=not options.unknown_sizes,
    )
    settings = SweepSettings(
        policies=expand(options.policies.split(",")),
        loads=tuple(map(float, options.loads.split(","))),
        regimes=tuple(map(float, options.regimes.split(","))),
        num_windows=options.windows,
        seed=options.seed,
        workload=workload,
    )
    done = {(line["policy"], line["load"], line["regime"], line["seed"]) for line in held}
    with out.open("a") as file:
        for run in run_sweep(rows, settings, StepTimes(models), lambda *key: key in done):
            file.write(json.dumps(as_lines(run)) + "\n")
            file.flush()
            if time.monotonic() > until:
                break


def _set_b() -> list[StepTimeModel]:
    """Three bases that have profiles, and a second one of the first's size."""
    models = [read_profile(name) for name in SET_B_PROFILES]
    return [models[0], dataclasses.replace(models[0], base="another-8b"), *models[1:]]


def compare(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a table: ratios above 1 are better than tlora (mean, p99) or first come (p99)."""
    cells: dict[tuple[float, float], dict[str, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["load"], row["regime"]), {})[row["policy"]] = row
    head = f"{'load':>5} {'regime':>6} {'policy':<19}{'n':>3} {'mean_s':>8} {'p99_s':>8} {'vs tlora':>8} {'p99':>6}"
    lines = [f"{head} {'p99/fifo':>8} {'bound':>6} {'jain':>6} {'tok/s':>7} {'ms':>6}"]
    gains: dict[str, list[tuple[float, float, float]]] = {}
    for (load, regime), held in sorted(cells.items()):
        rival, first = held.get("tlora"), held.get("independent")
        for name, row in held.items():
            mean = rival["mean_jct_s"] / row["mean_jct_s"] if rival else float("nan")
            p99 = rival["p99_jct_s"] / row["p99_jct_s"] if rival else float("nan")
            fifo = first["p99_jct_s"] / row["p99_jct_s"] if first else float("nan")
            gains.setdefault(name, []).append((mean, p99, fifo))
            lines.append(
                f"{load:5g} {regime:6g} {name:<19}{row['num_windows']:3d} {row['mean_jct_s']:8.0f} "
                f"{row['p99_jct_s']:8.0f} {mean:8.3f} {p99:6.3f} {fifo:8.3f} {row['bound_ratio']:6.2f} "
                f"{row['jain']:6.3f} {row['tokens_per_busy_host_s']:7.0f} {row['decision_ms']:6.2f}"
            )
    lines.append("geometric mean over the cells: mean against tlora, p99 against tlora, p99 against first come")
    for name, all_gains in gains.items():
        lines.append(f"  {name:<19}" + "".join(f"{geometric_mean(g[at] for g in all_gains):8.3f}" for at in range(3)))
    return lines


if __name__ == "__main__":
    main()
