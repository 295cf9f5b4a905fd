"""The simulation's report.html: one file, no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlora_ray.display.numbers import show_seconds
from mlora_ray.simulate.charts import completion_chart, gantt_chart, usage_chart
from mlora_ray.simulate.sweep import SimulationRun


def write_report(
    path: Path, command: str, notes: Sequence[str], rows: Sequence[dict[str, Any]], runs: Sequence[SimulationRun]
) -> None:
    """A section a cell of load and regime: table, completion times of all windows, hosts and stays of the first."""
    import jinja2

    loader = jinja2.PackageLoader("mlora_ray.simulate", "")
    jinja = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    jinja.filters.update(seconds=show_seconds)
    keys = list(dict.fromkeys((row["load"], row["regime"]) for row in rows))
    cells = [_cell(at, key, rows, runs) for at, key in enumerate(keys)]
    text = jinja.get_template("page.html.j2").render(command=command, notes=notes, cells=cells)
    path.write_text(text, encoding="utf-8")


def _cell(
    at: int, key: tuple[float, float], rows: Sequence[dict[str, Any]], runs: Sequence[SimulationRun]
) -> dict[str, Any]:
    held = [run for run in runs if (run.load, run.regime) == key and run.outcome is not None]
    times: dict[str, list[float]] = {}
    for run in held:
        assert run.outcome is not None
        times.setdefault(run.policy, []).extend(o.completion_s for o in run.outcome.jobs)
    first = {run.policy: run.outcome for run in held if run.seed == held[0].seed and run.outcome is not None}
    shown = first.get("rate-remaining") or next(iter(first.values()))
    num_hosts = len({s.host for outcome in first.values() for s in outcome.stays})
    return {
        "title": f"Load {key[0]:g}, {key[1]:g} tokens per step",
        "rows": sorted((r for r in rows if (r["load"], r["regime"]) == key), key=lambda r: r["mean_jct_s"]),
        "seed": held[0].seed,
        "completion": completion_chart(times, f"done{at}"),
        "usage": usage_chart(first, num_hosts, f"used{at}"),
        "gantt": gantt_chart(shown, f"gantt{at}"),
        "shown": shown.policy,
    }
