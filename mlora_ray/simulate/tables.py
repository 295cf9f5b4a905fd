"""The table on the terminal, and every job as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlora_ray.display.numbers import show_seconds
from mlora_ray.simulate.sweep import SimulationRun

WIDE = 128  # columns of a terminal that shows everything
ONLY_WIDE = ("95%", "longest", "slowdown", "used")
LEGEND = (
    "mean, p50, p99, longest: completion times, geometric means over windows;\n"
    "95%: bootstrap interval of the mean; x bound: mean over a lower bound that no\n"
    "schedule beats; tok/s: per busy host; used: share of host time with an adapter;\n"
    "ms: median time of a decision."
)


def show_table(rows: Sequence[dict[str, Any]]) -> None:
    """One table a cell of load and regime, the best mean first."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    cells: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["load"], row["regime"]), []).append(row)
    for (load, regime), held in cells.items():
        title = f"load {load:g}, {regime:g} tokens per step, {held[0]['num_windows']} windows"
        shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
        lines = [_cells(row) for row in sorted(held, key=lambda r: r["mean_jct_s"])]
        names = [name for name in lines[0] if console.width >= WIDE or name not in ONLY_WIDE]
        for name in names:
            shown.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
        for line in lines:
            shown.add_row(*(line[name] for name in names))
        console.print(shown, "")
    console.print(LEGEND, highlight=False)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["mean_jct_s_interval"]
    return {
        "policy": f"{row['policy']} = {row['bound_used']}" if "bound_used" in row else row["policy"],
        "mean": show_seconds(row["mean_jct_s"]),
        "95%": f"{show_seconds(low)} to {show_seconds(high)}",
        "p50": show_seconds(row["p50_jct_s"]),
        "p99": show_seconds(row["p99_jct_s"]),
        "longest": show_seconds(row["max_jct_s"]),
        "x bound": f"{row['bound_ratio']:.2f}",
        "slowdown": f"{row['mean_slowdown']:.1f}",
        "tok/s": f"{row['tokens_per_busy_host_s']:,.0f}",
        "used": f"{row['utilisation']:.0%}",
        "Jain": f"{row['jain']:.3f}",
        "ms": f"{row['decision_ms']:.2f}",
    }


def write_jobs(runs: Sequence[SimulationRun], path: str) -> None:
    """A row a job and simulation; pandas reads it."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, list[Any]] = {}
    for run in runs:
        for one in run.outcome.jobs if run.outcome else ():
            job = one.job
            row = {
                "policy": run.policy,
                "load": run.load,
                "regime": run.regime,
                "seed": run.seed,
                "job": job.id,
                "tenant": job.tenant,
                "base": job.base,
                "width": job.width,
                "step_tokens": job.step_tokens,
                "lora_rank": job.lora_rank,
                "tokens": job.tokens,
                "submit_s": job.submit_s,
                "duration_s": job.duration_s,
                "deadline_s": job.deadline_s,
                "started_s": one.started_s,
                "finished_s": one.finished_s,
                "completion_s": one.completion_s,
                "slowdown": one.slowdown,
                "num_moves": one.num_moves,
                "hosts": ",".join(one.hosts),
                "lost_tokens": one.lost_tokens,
            }
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
