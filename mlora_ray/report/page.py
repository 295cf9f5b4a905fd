"""Lays out DIR/report.html: one file, no network, readable in light and dark and without scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlora_ray.display.numbers import count, show_bytes, show_loss, show_rate, show_seconds
from mlora_ray.report.run_data import CrossEval, ReportData, ReportedJob, read_run
from mlora_ray.types.serialization import number

MAX_CROSS_CELLS = 24  # rows and columns of a cross-evaluation table with numbers in its cells
NUM_SAMPLE_LINES = 24  # of the throughput table
STRONGEST = 50  # per cent of colour in a cell: text on it keeps a contrast of 4.8 or more, light and dark


def write_report(run_dir: str) -> str:
    """Write DIR/report.html from summary.json and the jobs' files, and return its path.

    Raises StorageError when there is no summary.json or a file is broken.
    """
    folder = Path(run_dir)
    path = folder / "report.html"
    held = path.with_suffix(".html.tmp")
    text = render(read_run(folder))
    try:
        held.write_text(text, encoding="utf-8")
        os.replace(held, path)
    except OSError:
        held.unlink(missing_ok=True)
        raise
    return str(path)


def render(data: ReportData) -> str:
    """The page."""
    import jinja2

    loader = jinja2.PackageLoader("mlora_ray.report", "")
    jinja = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters.update(loss=show_loss, seconds=show_seconds, count=count)
    jinja.globals.update(sort_number=lambda value: "" if value is None else f"{value:.9g}")
    return jinja.get_template("page.html.j2").render(
        title=data.title,
        summary={"cross_eval_note": "", **data.summary},
        started=str(data.summary.get("started_at") or "")[:16].replace("T", " "),
        figures=headline(data),
        jobs=data.jobs,
        failed=[job for job in data.jobs if job.error],
        cross=data.cross_eval,
        max_rows=(data.summary.get("cross_eval") or {}).get("max_rows"),
        cross_table=_cross_table(data.cross_eval),
        cell_text=_cell_text,
        samples=_samples(data),
        **_charts(data),
    )


def headline(data: ReportData) -> list[tuple[str, str, str]]:
    """(name, figure, note) of each tile on top."""
    held = data.summary
    wall, cpu, tokens = number(held.get("wall_s")), number(held.get("cpu_s")), number(held.get("tokens")) or 0
    failed = sum(job.state == "FAILED" for job in data.jobs)
    unfinished = sum(job.state not in ("FAILED", "SUCCEEDED") for job in data.jobs)
    states = [f"{failed} failed"] if failed else []
    states += [f"{unfinished} unfinished"] if unfinished else []
    better = [job.change < 0 for job in data.jobs if job.change is not None]
    tiles = [
        ("Jobs", f"{len(held.get('succeeded') or ()):,} of {len(data.jobs):,}", ", ".join(states) or "all succeeded"),
        ("Tokens per second", show_rate(number(held.get("tokens_per_s"))), "mean while training"),
        ("Tokens", _short_count(tokens), f"{tokens:,.0f} trained on"),
        ("Wall time", show_seconds(wall), "loading included"),
        ("CPU time", show_seconds(cpu), f"{tokens / cpu:,.0f} tokens per CPU second" if cpu else ""),
        ("Peak memory", show_bytes(number(held.get("peak_bytes")) or 0), str(held.get("device") or "")),
    ]
    if better:
        tiles.insert(1, ("Better than the base", f"{sum(better):,} of {len(better):,}", "by loss on the eval rows"))
    if data.cross_eval and len(data.cross_eval.adapters) > 1:
        own, owned = data.cross_eval.num_own_best()
        tiles.insert(2, ("Best on its own rows", f"{own:,} of {owned:,}", "of all adapters"))
    return tiles


def _charts(data: ReportData) -> dict[str, Any]:
    from mlora_ray.report.charts import cross_map, eval_chart, throughput_chart
    from mlora_ray.report.loss_chart import MAX_PANELS, loss_chart, sparkline

    has_losses = [job for job in data.jobs if any(loss is not None for loss in job.losses)]
    has_evals = any(job.change is not None for job in data.jobs)
    is_large = data.cross_eval is not None and not _fits(data.cross_eval)
    return {
        "loss_chart": loss_chart(data.jobs) if has_losses else "",
        "has_panels": len(has_losses) <= MAX_PANELS,
        "eval_chart": eval_chart(data.jobs) if has_evals else "",
        "throughput_chart": throughput_chart(data.throughput, number(data.summary.get("tokens_per_s")))
        if data.throughput
        else "",
        "cross_map": cross_map(data.cross_eval) if is_large and data.cross_eval else "",
        "sparks": [sparkline(job.losses) for job in data.jobs],
        "quarters": [_quarters(job) for job in data.jobs],
    }


def _fits(cross: CrossEval) -> bool:
    return max(len(cross.adapters), len(cross.rows)) <= MAX_CROSS_CELLS


def _cross_table(cross: CrossEval | None) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Rows of (adapter, cells), the base first; empty when there is none or it is too large for numbers."""
    if cross is None or not _fits(cross):
        return []
    from mlora_ray.report.charts import cross_shares

    better, worse = cross_shares(cross)
    bests = [cross.best_of(column) for column in range(len(cross.rows))]
    lines = []
    for at, name in enumerate(cross.adapters):
        cells: list[Mapping[str, Any]] = [
            {
                "text": _cell_text(loss),
                "better": round(STRONGEST * float(better[at, column])),
                "worse": round(STRONGEST * float(worse[at, column])),
                "is_best": bests[column] == at,
                "is_own": cross.rows[column] == name,
            }
            for column, loss in enumerate(cross.losses[at])
        ]
        lines.append((name, cells))
    return lines


def _cell_text(loss: float | None) -> str:
    if loss is None:
        return "–"
    return f"{loss:.3f}" if loss < 10 else f"{loss:.1f}" if loss < 1000 else f"{loss:.0e}"


def _quarters(job: ReportedJob) -> list[float | None]:
    """The loss at the first step, at a quarter, half and three quarters of the steps, and at the last."""
    last = len(job.losses) - 1
    return [job.losses[round(last * share / 4)] for share in range(5)] if job.losses else [None] * 5


def _samples(data: ReportData) -> list[tuple[str, str]]:
    """(time, tokens per second) for the throughput table, evenly thinned."""
    held = data.throughput
    every = max(1, -(-len(held) // NUM_SAMPLE_LINES))
    return [(show_seconds(at), show_rate(rate)) for at, rate in held[every - 1 :: every]]


def _short_count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 10 * size or (number >= size and unit != "k"):
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"
