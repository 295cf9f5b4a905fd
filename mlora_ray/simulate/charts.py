"""Charts of a simulation: completion times as CDFs, hosts in use over time, who was on which host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from mlora_ray.display.numbers import show_seconds
from mlora_ray.report.chart_style import ACCENT, FAINT, INK, MUTED, WARM, WIDTH_IN, chart_style, to_svg
from mlora_ray.simulate.results import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 400
MAX_STAYS = 4000  # bars of the Gantt chart
STYLES = {"rate-remaining": (ACCENT, 2.4, "-"), "tlora": (WARM, 1.8, "-"), "tlora-1.3": (WARM, 1.3, "--")}
STYLES |= {
    "tlora-2.0": (WARM, 1.8, "-"),
    "independent": (INK, 1.4, "-"),
    "srpt": (MUTED, 1.6, "-"),
}


def completion_chart(times: Mapping[str, Sequence[float]], name: str) -> Markup:
    """Share of jobs done within a time, a curve a policy; logarithmic, as most are short and the tail is long."""
    from matplotlib.figure import Figure

    with chart_style(name):
        figure = Figure(figsize=(WIDTH_IN, 3.6))
        axes = figure.add_subplot()
        for policy, seconds in times.items():
            ordered = np.sort(np.asarray(seconds)) / 60
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            every = max(1, len(ordered) // MAX_POINTS)
            at = np.unique(np.append(np.arange(0, len(ordered), every), len(ordered) - 1))
            _line(axes, policy, ordered[at], 100 * share[at])
        axes.set(xscale="log", ylim=(0, 100), xlabel="completion time, minutes", ylabel="% of the jobs")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.legend(loc="lower right", fontsize=8.5, ncols=2)
        said = "; ".join(f"{p}: half within {show_seconds(float(np.median(t)))}" for p, t in times.items())
        return to_svg(figure, name, "Completion times by policy", said)


def usage_chart(outcomes: Mapping[str, Outcome], num_hosts: int, name: str) -> Markup:
    """Hosts with an adapter over time, for one window."""
    from matplotlib.figure import Figure

    with chart_style(name):
        figure = Figure(figsize=(WIDTH_IN, 2.6))
        axes = figure.add_subplot()
        for policy, outcome in outcomes.items():
            times = np.asarray([at for at, _ in outcome.busy]) / 3600
            used = np.asarray([num for _, num in outcome.busy], dtype=float)
            grid = np.linspace(times[0], times[-1], MAX_POINTS)
            _line(axes, policy, grid, used[np.searchsorted(times, grid, side="right") - 1])
        axes.set(ylim=(0, num_hosts * 1.05), xlabel="hours", ylabel="hosts in use")
        axes.legend(loc="upper right", fontsize=8.5, ncols=3)
        said = "; ".join(f"{p}: {o.allocated_s / o.host_s:.0%} of the host time" for p, o in outcomes.items())
        return to_svg(figure, name, "Hosts in use over time", said)


def gantt_chart(outcome: Outcome, name: str) -> Markup:
    """A line a host; a bar is an adapter's stay, fainter where several share."""
    from matplotlib.figure import Figure

    hosts = sorted({s.host for s in outcome.stays})
    row = {host: at for at, host in enumerate(hosts)}
    stays = sorted(outcome.stays, key=lambda s: s.from_s - s.to_s)[:MAX_STAYS]
    with chart_style(name):
        figure = Figure(figsize=(WIDTH_IN, 0.8 + 0.19 * min(len(hosts), 40)))
        axes = figure.add_subplot()
        axes.barh(
            [row[s.host] for s in stays],
            [(s.to_s - s.from_s) / 3600 for s in stays],
            left=[s.from_s / 3600 for s in stays],
            height=0.8,
            color=ACCENT,
            edgecolor=FAINT,
            linewidth=0.2,
            alpha=0.45,
        )
        axes.set_yticks(range(len(hosts)), hosts, fontsize=7)
        axes.set(xlabel="hours", ylim=(len(hosts) - 0.4, -0.6))
        said = f"{len(outcome.stays):,} stays of {len(outcome.jobs):,} adapters on {len(hosts)} hosts."
        return to_svg(figure, name, f"Who was on which host: {outcome.policy}", said)


def _line(axes: Axes, policy: str, x: np.ndarray, y: np.ndarray) -> None:
    colour, width, style = STYLES.get(policy, (FAINT, 1.1, "-"))
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=width,
        linestyle=style,
        label=policy,
        zorder=4 if policy == "rate-remaining" else 2,
    )
