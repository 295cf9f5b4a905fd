"""The report's charts: tokens per second, eval loss before and after, and the large cross-evaluation map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from mlora_ray.display.numbers import show_loss, show_rate, show_seconds
from mlora_ray.report.chart_style import ACCENT, FAINT, GRID, INK, MUTED, WARM, WIDTH_IN, bare, chart_style, to_svg
from mlora_ray.report.run_data import CrossEval, ReportedJob

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_DUMBBELLS = 40
MAX_SAMPLES = 400
ACCENT_RGB, WARM_RGB = (0.23, 0.52, 0.82), (0.87, 0.47, 0.10)  # both read on white and on near-black


def throughput_chart(samples: Sequence[tuple[float, float]], mean: float | None) -> Markup:
    """Tokens per second over time; `samples` are (seconds, rate), averaged into at most 400 points."""
    from matplotlib.figure import Figure

    points = np.asarray(samples, dtype=float)  # [S, 2]
    if len(points) > MAX_SAMPLES:
        points = np.asarray([part.mean(axis=0) for part in np.array_split(points, MAX_SAMPLES)])
    unit, size = ("minutes", 60.0) if points[-1, 0] >= 180 else ("seconds", 1.0)
    with chart_style("throughput"):
        figure = Figure(figsize=(WIDTH_IN, 2.3))
        axes = figure.add_subplot()
        at, rate = points[:, 0] / size, points[:, 1]
        axes.fill_between(at, rate, color=ACCENT, alpha=0.14, linewidth=0)
        axes.plot(at, rate, color=ACCENT, marker="o" if len(at) < 3 else None, markersize=4)
        if mean is not None:
            axes.axhline(mean, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.set_title(f"dashed: mean {show_rate(mean)}", loc="right", weight="normal")
        axes.set(xlim=(0, max(at[-1], 1e-9)), ylim=(0, max(rate.max(), mean or 0, 1e-9) * 1.15))
        axes.set_xlabel(f"{unit} since the start")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="y", nbins=4)
        said = f"From {show_rate(rate.min())} to {show_rate(rate.max())} tokens per second over "
        said += f"{show_seconds(float(points[-1, 0]))}" + (f", {show_rate(mean)} on average." if mean else ".")
        return to_svg(figure, "throughput", "Tokens per second over time", said)


def eval_chart(jobs: Sequence[ReportedJob]) -> Markup:
    """Eval loss of the base and of each adapter: a dumbbell a job, a scatter beyond 40 jobs."""
    held = sorted((job for job in jobs if job.change is not None), key=lambda job: job.change or 0.0)
    better = sum((job.change or 0.0) < 0 for job in held)
    said = f"The adapter's eval loss is below the base's for {better} of {len(held)} jobs."
    return _dumbbells(held, said) if len(held) <= MAX_DUMBBELLS else _scatter(held, said)


def _dumbbells(jobs: Sequence[ReportedJob], said: str) -> Markup:
    from matplotlib.figure import Figure

    with chart_style("evals"):
        figure = Figure(figsize=(WIDTH_IN, 0.55 + 0.27 * len(jobs)))
        axes = bare(figure.add_subplot())
        base = np.asarray([job.base_eval_loss for job in jobs], dtype=float)
        after = np.asarray([job.eval_loss for job in jobs], dtype=float)
        at = np.arange(len(jobs))
        colours = [ACCENT if b > a else WARM for b, a in zip(base, after, strict=True)]
        axes.hlines(at, 0, 1, transform=axes.get_yaxis_transform(), color=GRID, linewidth=0.7)
        axes.hlines(at, base, after, color=colours, linewidth=2.4, alpha=0.55)
        axes.scatter(base, at, s=34, color=FAINT, edgecolors=MUTED, linewidths=1.1, zorder=3)
        axes.scatter(after, at, s=42, color=colours, zorder=4)
        _scale(axes, "x", np.concatenate([base, after]))
        axes.set_yticks(at, [_short(job.name) for job in jobs], color=INK)
        axes.set_ylim(len(jobs) - 0.4, -1.0)
        for y, job in enumerate(jobs):
            change, before = job.change or 0.0, job.base_eval_loss or 0.0
            share = f"  ({change / before:+.0%})".replace("-", "−") if before else ""
            text = f"{show_loss(before)} → {show_loss(job.eval_loss)}{share}"
            axes.annotate(text, (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0),
                          textcoords="offset points", va="center", color=INK)  # fmt: skip
        axes.annotate("base", (base[0], 0), xytext=(0, 7), textcoords="offset points", ha="center", color=MUTED)
        axes.annotate("adapter", (after[0], 0), xytext=(0, 7), textcoords="offset points", ha="center",
                      color=colours[0], weight="bold")  # fmt: skip
        return to_svg(figure, "evals", "Eval loss of the base and of each adapter", said)


def _scatter(jobs: Sequence[ReportedJob], said: str) -> Markup:
    from matplotlib.figure import Figure

    with chart_style("evals"):
        figure = Figure(figsize=(WIDTH_IN, 4.6))
        axes, changes = figure.subplots(1, 2, width_ratios=(1, 1.25))
        axes.grid(visible=True, axis="both")
        base = np.asarray([job.base_eval_loss for job in jobs], dtype=float)
        after = np.asarray([job.eval_loss for job in jobs], dtype=float)
        colours = [ACCENT if b > a else WARM for b, a in zip(base, after, strict=True)]
        axes.scatter(base, after, s=16, c=colours, alpha=0.6, linewidths=0)
        for which in "xy":
            _scale(axes, which, np.concatenate([base, after]))
        axes.axline((base.min(), base.min()), (base.max() + 1e-6, base.max() + 1e-6), color=MUTED, linewidth=1)
        axes.set_title("below the line: better than the base")
        axes.set(xlabel="eval loss of the base", ylabel="eval loss of the adapter")
        for job in [job for job in jobs if (job.change or 0.0) >= 0][-3:]:
            axes.annotate(_short(job.name), (job.base_eval_loss or 0.0, job.eval_loss or 0.0), xytext=(5, 3),
                          textcoords="offset points", color=INK)  # fmt: skip
        shares = np.clip(100 * (after - base) / np.maximum(base, 1e-9), -100, 100)
        _, edges, bars = changes.hist(shares, bins=min(40, len(jobs) // 4), color=ACCENT, alpha=0.75)
        for left, bar in zip(edges, bars, strict=False):
            bar.set_facecolor(ACCENT if left < 0 else WARM)
        changes.set_title(f"change of the eval loss, median {np.median(shares):+.0f}%".replace("-", "−"))
        changes.set(xlabel="% of the base's loss", ylabel="jobs")
        return to_svg(figure, "evals", "Eval loss of the base against each adapter", said)


def cross_map(cross: CrossEval) -> Markup:
    """Cross-evaluation as a picture, for more jobs than a table with numbers can hold."""
    from matplotlib.figure import Figure

    better, worse = cross_shares(cross)
    shade = np.round(np.where(better > 0, better, worse) * 16) / 16  # few levels: the picture packs well
    rgb = np.where(better[..., None] > 0, ACCENT_RGB, WARM_RGB)
    with chart_style("cross"):
        figure = Figure(figsize=(WIDTH_IN, 6.4))
        axes = bare(figure.add_subplot())
        axes.imshow(np.concatenate([rgb, shade[..., None]], axis=-1), interpolation="nearest")
        best = [(column, row) for column in range(len(cross.rows)) if (row := cross.best_of(column)) is not None]
        size = max(0.6, 170 / len(cross.rows))
        axes.scatter(*zip(*best, strict=True), s=size, color=INK, linewidths=0)
        axes.set(xlabel=f"eval rows of {len(cross.rows)} jobs", ylabel=f"{len(cross.adapters)} adapters")
        axes.set_xticks([])
        axes.set_yticks([])
        own, owned = cross.num_own_best()
        said = f"{len(cross.adapters)} adapters on the eval rows of {len(cross.rows)} jobs. "
        said += f"A dot marks the best adapter of each column: its own for {own} of {owned}."
        return to_svg(figure, "cross", "Cross-evaluation", said)


def cross_shares(cross: CrossEval) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays [adapters, rows] in 0..1, each column by itself: how much better, and worse, than the base.

    1 in the first is the column's best loss, 1 in the second three times the base's loss or more, on a log scale.
    Without a base loss the column's median stands in for it. A cell without a number is 0 in both.
    """
    losses = np.asarray(cross.losses, dtype=float).reshape(len(cross.adapters), len(cross.rows))
    base = np.asarray(cross.base_losses, dtype=float)
    better, worse = np.zeros_like(losses), np.zeros_like(losses)
    for at in range(losses.shape[1]):
        column = losses[:, at]
        known = column[np.isfinite(column)]
        if not len(known):
            continue
        middle = base[at] if np.isfinite(base[at]) else float(np.median(known))
        if (span := middle - known.min()) > 0:
            better[:, at] = np.nan_to_num(np.clip((middle - column) / span, 0, 1))
        if middle > 0:
            worse[:, at] = np.nan_to_num(np.clip(np.log(np.maximum(column, 1e-9) / middle) / np.log(3), 0, 1))
    return better, worse


def _scale(axes: Axes, which: str, values: np.ndarray) -> None:
    """A log axis where the losses span more than a factor of 25, with room at both ends."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 25:
        axes.set(**{f"{which}scale": "log", f"{which}lim": (low / 1.3, high * 1.3)})
        getattr(axes, f"{which}axis").set_major_formatter(lambda value, _: f"{value:g}")
    else:
        room = (high - low) * 0.06 or 0.1
        axes.set(**{f"{which}lim": (low - room, high + room)})


def _short(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
