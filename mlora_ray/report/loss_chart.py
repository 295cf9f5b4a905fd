"""Loss curves: one panel a job up to 12 jobs, percentile bands with the outliers named beyond that."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from mlora_ray.display.numbers import count, show_loss
from mlora_ray.report.chart_style import ACCENT, FAINT, INK, MUTED, WARM, WIDTH_IN, chart_style, to_svg
from mlora_ray.report.run_data import ReportedJob

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS = 12
MAX_FAINT_CURVES = 100
MAX_POINTS = 300  # of one curve
NUM_SHARES = 41  # points of a percentile curve
NUM_NAMED = 3  # curves named at each end
MIN_LABEL_GAP = 0.055  # of the axes' height


def loss_chart(jobs: Sequence[ReportedJob]) -> Markup:
    """Training loss of every job that has a finite loss."""
    held = [job for job in jobs if any(loss is not None for loss in job.losses)]
    return _panels(held) if len(held) <= MAX_PANELS else _bands(held)


def smooth(losses: np.ndarray) -> np.ndarray:
    """Centred running mean over a twentieth of the steps; a NaN stays out of its neighbours' mean."""
    half = max(0, len(losses) // 40)
    if half == 0:
        return losses
    known = np.isfinite(losses)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, losses, 0.0))])
    number = np.concatenate([[0], np.cumsum(known)])
    at = np.arange(len(losses))
    low, high = np.maximum(0, at - half), np.minimum(len(losses), at + half + 1)
    mean = (total[high] - total[low]) / np.maximum(1, number[high] - number[low])
    return np.where(known, mean, np.nan)


def sparkline(losses: Sequence[float | None], width: int = 96, height: int = 22, num_points: int = 32) -> str:
    """The `d` of an SVG path: the smoothed curve from its own lowest to its own highest loss; '' without one."""
    curve = smooth(np.asarray(losses, dtype=float))
    known = np.flatnonzero(np.isfinite(curve))
    if len(known) < 2:
        return ""
    known = known[np.unique(np.linspace(0, len(known) - 1, num_points).astype(int))]
    values = curve[known]
    low, span = values.min(), (values.max() - values.min()) or 1.0
    x = 2 + (width - 4) * known / max(1, len(curve) - 1)
    y = 2 + (height - 4) * (1 - (values - low) / span)
    return "M" + "L".join(f"{a:.0f} {b:.1f}" for a, b in zip(x, y, strict=True))


def _panels(jobs: Sequence[ReportedJob]) -> Markup:
    from matplotlib.figure import Figure

    columns = min(4, len(jobs)) if len(jobs) != 6 else 3
    lines = -(-len(jobs) // columns)
    with chart_style("losses"):
        figure = Figure(figsize=(WIDTH_IN, (1.95 if lines > 1 else 2.6) * lines))
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
        curves = [_thin(np.asarray(job.steps, float), np.asarray(job.losses, float)) for job in jobs]
        for axes, job, (steps, losses) in zip(panels, jobs, curves, strict=False):
            axes.plot(steps, losses, color=ACCENT, linewidth=0.8, alpha=0.35)
            lone = "o" if len(steps) < 3 else None
            axes.plot(steps, smooth(losses), color=ACCENT, linewidth=1.8, marker=lone, markersize=3)
            axes.set_title(job.name if len(job.name) <= 30 else f"{job.name[:29]}…")
            axes.set_xlim(0, max(job.total_steps, job.steps[-1]) * 1.02)
            axes.locator_params(axis="x", nbins=4, integer=True)
            _marks(axes, job)
        for axes in panels[len(jobs) :]:
            axes.set_visible(False)
        _limit_y(panels[0], [np.concatenate([smooth(losses) for _, losses in curves]), _eval_losses(jobs)])
        figure.supxlabel("optimizer step", color=MUTED, fontsize=9)
        said = "; ".join(f"{job.name}: {_said(job)}" for job in jobs)
        return to_svg(figure, "losses", f"Training loss of {count(len(jobs), 'job')}", said)


def _marks(axes: Axes, job: ReportedJob) -> None:
    """Eval losses while training, the base's and the final one, and where the loss stopped being a number."""
    if job.base_eval_loss is not None:
        axes.axhline(job.base_eval_loss, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    points = list(job.evals)
    if job.eval_loss is not None and (not points or points[-1][0] != job.steps[-1]):
        points.append((job.steps[-1], job.eval_loss))
    if points:
        axes.scatter(
            [at for at, _ in points],
            [loss for _, loss in points],
            s=20,
            color=INK,
            zorder=4,
            linewidths=0,
            clip_on=False,
        )
    bad = job.bad_step
    stopped = bad if bad is not None else job.steps[-1] if job.error else None
    if stopped is not None:
        axes.axvline(stopped, color=WARM, linewidth=1.2)
        text = f"not a number\nat step {stopped:,}" if bad is not None else f"failed after\nstep {stopped:,}"
        is_right = stopped > 0.6 * max(job.total_steps, job.steps[-1])
        axes.annotate(text, (stopped, 0.97), xycoords=("data", "axes fraction"), va="top", color=WARM,
                      xytext=(-4 if is_right else 4, 0), textcoords="offset points",
                      ha="right" if is_right else "left")  # fmt: skip


def _bands(jobs: Sequence[ReportedJob]) -> Markup:
    from matplotlib.figure import Figure

    grid = np.linspace(0, 1, NUM_SHARES)
    curves = np.asarray([_on_shares(job, grid) for job in jobs])  # [jobs, NUM_SHARES], NaN past a job's end
    ends = np.asarray([_end(job) for job in jobs])
    known = np.isfinite(curves).any(axis=0)
    low, quarter, middle, three, high = np.nanpercentile(curves[:, known], [5, 25, 50, 75, 95], axis=0)
    with chart_style("losses"):
        figure = Figure(figsize=(WIDTH_IN, 4.2))
        axes = figure.add_subplot()
        x = 100 * grid[known]
        axes.fill_between(x, low, high, color=ACCENT, alpha=0.13, linewidth=0, label="5–95 % of the jobs")
        axes.fill_between(x, quarter, three, color=ACCENT, alpha=0.22, linewidth=0, label="25–75 %")
        if len(jobs) <= MAX_FAINT_CURVES:
            axes.plot(100 * grid, curves.T, color=FAINT, linewidth=0.7, alpha=0.8)
        order = np.argsort(ends, kind="stable")
        named = list(dict.fromkeys([*order[:NUM_NAMED].tolist(), *order[-NUM_NAMED:].tolist()]))
        for at in named:
            colour = WARM if at in order[-NUM_NAMED:] else MUTED
            axes.plot(100 * grid, curves[at], color=colour, linewidth=1.1)
        axes.plot(x, middle, color=ACCENT, linewidth=2.4, label="median")
        _limit_y(axes, [curves[np.isfinite(curves)]])
        axes.set(xlim=(0, 100), xlabel="share of the job's steps, %", ylabel="training loss")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, borderaxespad=0.2)
        _name_ends(axes, [jobs[at] for at in named], [curves[at] for at in named], order.size)
        said = f"Median loss {show_loss(float(middle[0]))} at the start and {show_loss(float(middle[-1]))} at the end."
        return to_svg(figure, "losses", f"Training loss of {count(len(jobs), 'job')} as percentile bands", said)


def _name_ends(axes: Axes, jobs: Sequence[ReportedJob], curves: Sequence[np.ndarray], num_jobs: int) -> None:
    """Names right of the axes at the height of each curve's end, pushed apart so that none overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = []
    for curve in curves:
        last = curve[np.isfinite(curve)][-1]
        heights.append(float(np.clip(to_axes.transform((100, last))[1], 0.0, 1.0)))
    places = np.asarray(heights)
    order = np.argsort(places, kind="stable")
    for before, at in itertools.pairwise(order):
        places[at] = max(places[at], places[before] + MIN_LABEL_GAP)
    over = max(0.0, float(places.max()) - 1.0)
    for job, y in zip(jobs, places - over, strict=True):
        name = job.name if len(job.name) <= 20 else f"{job.name[:19]}…"
        note = "failed" if job.error else show_loss(_end(job)) if np.isfinite(_end(job)) else "not a number"
        axes.annotate(f"{name}  {note}", (1, y), xycoords="axes fraction", xytext=(6, 0), va="center",
                      textcoords="offset points", color=WARM if job.error else INK, fontsize=8.5)  # fmt: skip


def _on_shares(job: ReportedJob, grid: np.ndarray) -> np.ndarray:
    """The smoothed curve at shares of the job's steps; NaN past the last finite loss."""
    losses = smooth(np.asarray(job.losses, dtype=float))
    steps = np.asarray(job.steps, dtype=float)
    known = np.isfinite(losses)
    share = (steps[known] - 1) / max(1, max(job.total_steps, job.steps[-1]) - 1)
    return np.asarray(np.interp(grid, share, losses[known], right=np.nan))


def _end(job: ReportedJob) -> float:
    """The last smoothed loss; infinite where the job failed or its loss stopped being a number."""
    if job.error or job.losses[-1] is None:
        return float("inf")
    return float(smooth(np.asarray(job.losses, dtype=float))[-1])


def _eval_losses(jobs: Sequence[ReportedJob]) -> np.ndarray:
    held = [loss for job in jobs for loss in (job.base_eval_loss, job.eval_loss) if loss is not None]
    return np.asarray(held, dtype=float)


def _limit_y(axes: Axes, parts: Sequence[np.ndarray]) -> None:
    """Limits from the 0.5th to the 99.5th percentile, so one exploding job hides no other; log beyond 25-fold."""
    values = np.concatenate([part[np.isfinite(part)] for part in parts])
    low, high = np.percentile(values, [0.5, 99.5])
    if low > 0 and high / low > 25:
        axes.set(yscale="log", ylim=(low / 1.25, high * 1.25))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    else:
        room = (high - low) * 0.08 or 0.1
        axes.set_ylim(max(0.0, low - room) if low >= 0 else low - room, high + room)


def _thin(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MAX_POINTS` points: means of equal runs of steps."""
    if len(steps) <= MAX_POINTS:
        return steps, losses
    parts = np.array_split(np.arange(len(steps)), MAX_POINTS)
    return np.asarray([steps[p].mean() for p in parts]), np.asarray([losses[p].mean() for p in parts])


def _said(job: ReportedJob) -> str:
    known = [loss for loss in job.losses if loss is not None]
    text = f"{show_loss(known[0])} to {show_loss(known[-1])} in {count(job.num_steps, 'step')}"
    return f"{text}, failed" if job.error else text
