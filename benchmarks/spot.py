"""`python -m mlora_ray.benchmarks.spot SPOT.npz`: what spot machines save, and whose deadlines they cost.

For each of `--starts` random draws of a spot series and a second of it, a few jobs with deadlines (submitted plus 1.2
to 2 times their time alone; hard for a third, soft for a third) run from no host to no host, by each way to have hosts:

fixed             `--hosts` on demand, from the first job to the last
queue-threshold   on demand, one for every two open jobs
uniform-progress  the rule of "Can't Be Late": each job on a machine of its own, spot or on demand
on-time           ours: jobs share hosts, spot while slack allows, on demand only when it does not

The first two place with `ours`. SPOT is what `mlora_ray.simulate.spot_series` reads. Prices are per host and hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlora_ray.config.step_time_profiles import read_profile
from mlora_ray.errors import InputError
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.profiling import measure
from mlora_ray.simulate.elastic_simulation import SpotSeries
from mlora_ray.simulate.metrics import interval
from mlora_ray.simulate.results import JobOutcome, Outcome
from mlora_ray.simulate.spot_comparison import CONTENDERS, ElasticSettings, draw_start, run_start, spot_settings
from mlora_ray.simulate.spot_series import read_spot_series
from mlora_ray.simulate.traces import DAY_S, TraceRow, filter_rows, read_trace
from mlora_ray.simulate.workload import WorkloadSettings

OURS, RIVAL = "on-time", "uniform-progress"
CLOSE = 1e-9  # of costs that are equal
SUMMED = ("hard_met", "hard", "soft_met", "soft", "jobs", "preempted")


def run(
    rows: Sequence[TraceRow],
    spot: Sequence[SpotSeries],
    settings: ElasticSettings,
    step_times: StepTimes,
    num_starts: int,
    seed: int,
    contenders: Sequence[str] = CONTENDERS,
) -> dict[str, Any]:
    """{command, commit, machine, seed, rows, checks, starts}: a row a contender, a start a draw."""
    starts = []
    for at in range(seed, seed + num_starts):
        start = draw_start(rows, spot, settings, step_times, at)
        found = {name: figures(run_start(name, start, settings, step_times)) for name in contenders}
        starts.append({"seed": at, "series": start.series, "start_s": start.start_s, "contenders": found})
    table = [summary(name, starts) for name in contenders]
    checks = compare(starts, spot_settings(settings).fallback_s) if {OURS, RIVAL} <= set(contenders) else {}
    held = dataclasses.asdict(settings)
    return measure.result(1, seed, table, checks=checks, settings=held, starts=starts)


def figures(outcome: Outcome) -> dict[str, Any]:
    """What one contender did with one start. `late`: the hard deadlines it missed."""
    due = [o for o in outcome.jobs if o.job.deadline_s is not None]
    met = [o for o in due if o.job.deadline_s is not None and o.finished_s <= o.job.deadline_s]
    return {
        "cost": outcome.cost,
        "host_hours": outcome.host_s / 3600,
        "hard": sum(o.job.is_hard for o in due),
        "hard_met": sum(o.job.is_hard for o in met),
        "soft": sum(not o.job.is_hard for o in due),
        "soft_met": sum(not o.job.is_hard for o in met),
        "late": {o.job.id: first_slack_s(o) for o in due if o.job.is_hard and o not in met},
        "lost_tokens": sum(o.lost_tokens for o in outcome.jobs),
        "mean_slowdown": sum(o.slowdown for o in outcome.jobs) / len(outcome.jobs),
        "moves": sum(o.num_moves for o in outcome.jobs),
        "preempted": outcome.num_preempted,
        "jobs": len(outcome.jobs),
    }


def first_slack_s(outcome: JobOutcome) -> float:
    """Seconds it could wait when it was submitted."""
    job = outcome.job
    return (job.deadline_s or 0.0) - job.submit_s - job.duration_s


def summary(name: str, starts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all starts: totals of what is counted, means of the rest."""
    held = [start["contenders"][name] for start in starts]
    row: dict[str, Any] = {"contender": name, "starts": len(starts)}
    for key in held[0]:
        if key != "late":
            total = sum(one[key] for one in held)
            row[key] = total if key in SUMMED else total / len(held)
    return row


def compare(starts: Sequence[dict[str, Any]], cold_s: float) -> dict[str, Any]:
    """Ours against Uniform Progress, start by start. `cold_s`: from being seen to running on a new machine.

    A deadline with less slack than that can only be met on a machine that happens to be there.
    """
    pairs = [(start["contenders"][OURS], start["contenders"][RIVAL]) for start in starts]
    ratios = [ours["cost"] / rival["cost"] for ours, rival in pairs]
    missed = [{n: s for n, s in ours["late"].items() if n not in rival["late"]} for ours, rival in pairs]
    gained = [rival["late"].keys() - ours["late"].keys() for ours, rival in pairs]
    return {
        "starts_that_miss_what_rival_meets": sum(map(bool, missed)),
        "deadlines_missed_that_rival_meets": sum(map(len, missed)),
        "of_these_with_time_to_start_a_machine": sum(s >= cold_s for held in missed for s in held.values()),
        "deadlines_met_that_rival_misses": sum(map(len, gained)),
        "starts_that_cost_more": sum(ratio > 1 + CLOSE for ratio in ratios),
        "mean_cost_ratio": sum(ratios) / len(ratios),
        "worst_cost_ratio": max(ratios),
        "geometric_cost_ratio_interval": interval(ratios),
        "total_cost_ratio": sum(o["cost"] for o, _ in pairs) / sum(r["cost"] for _, r in pairs),
    }


def print_table(result: dict[str, Any], console: Any = None) -> None:
    """The result as a person reads it."""
    from rich.console import Console
    from rich.table import Table

    out = console or Console()
    rows = result["rows"]
    each = rows[0]["jobs"] / rows[0]["starts"]
    table = Table(title=f"{rows[0]['starts']} random starts on spot series, {each:.0f} jobs each; means of a start")
    heads = ("", "cost", "host hours", "hard met", "soft met", "lost tokens", "slowdown", "moves", "preempted")
    for head in heads:
        table.add_column(head, justify="right" if head else "left")
    for row in rows:
        met = [f"{row[f'{kind}_met']:,} of {row[kind]:,}" for kind in ("hard", "soft")]
        ends = [f"{row['lost_tokens']:,.0f}", f"{row['mean_slowdown']:.2f}", f"{row['moves']:.0f}"]
        preempted = f"{row['preempted'] / row['starts']:.1f}"
        table.add_row(row["contender"], f"{row['cost']:.2f}", f"{row['host_hours']:.1f}", *met, *ends, preempted)
    out.print(table)
    for name, value in result["checks"].items():
        shown = ", ".join(f"{v:.3f}" for v in value) if isinstance(value, list | tuple) else f"{value:.6g}"
        out.print(f"{name.replace('_', ' ')}: {shown}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spot", type=Path, help=".npz with its index beside it, or .csv")
    parser.add_argument("--trace", default="synthetic:philly", help="philly:FILE, synthetic:philly, ...")
    parser.add_argument("--starts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first start")
    parser.add_argument("--jobs", type=int, default=12, help="of a start")
    parser.add_argument("--load", type=float, default=0.6, help="of the fixed hosts")
    parser.add_argument("--hosts", type=int, default=4, help="of `fixed`")
    parser.add_argument("--regime", type=float, default=700.0, help="mean tokens of a step")
    parser.add_argument("--min-s", type=float, default=60.0, help="shortest job")
    parser.add_argument("--zones", type=int, default=1)
    parser.add_argument("--depth", type=int, default=1, help="a machine of a series counts for so many")
    parser.add_argument("--notice-s", type=float, help="before a spot machine goes; none given: 30 to 120, drawn")
    parser.add_argument("--spot-price", type=float, default=1.0)
    parser.add_argument("--sure-price", type=float, default=3.0)
    parser.add_argument("--profile", default="h100-llama-3.1-8b")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where both checks hold, 1 where one does not or the input is wrong."""
    given = parse(arguments)
    model = read_profile(given.profile)
    workload = WorkloadSettings(
        num_jobs=given.jobs,
        load=given.load,
        step_tokens=given.regime,
        num_hosts=given.hosts,
        bases=(model.base,),
        has_deadlines=True,
        device_type=model.device_type,
    )
    settings = ElasticSettings(
        workload=workload,
        num_zones=given.zones,
        depth=given.depth,
        spot_price=given.spot_price,
        sure_price=given.sure_price,
        num_fixed=given.hosts,
        notice_s=given.notice_s,
    )
    try:
        spot = read_spot_series(given.spot)
        rows = filter_rows(read_trace(given.trace), min_s=given.min_s, max_s=DAY_S, max_devices=1).rows
        found = run(rows, spot, settings, StepTimes([model]), given.starts, given.seed, given.contenders)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found)) if given.json else print_table(found)
    checks = found["checks"]
    return int(any(checks.get(name) for name in ("starts_that_miss_what_rival_meets", "starts_that_cost_more")))


if __name__ == "__main__":
    sys.exit(main())
