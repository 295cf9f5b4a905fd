"""A matplotlib figure as inline SVG that follows the page's colours, light or dark.

Charts are drawn in the marker colours below; `to_svg` turns each into the page's CSS variable. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, ACCENT, WARM, FAINT, SURFACE = (f"#0a0b{at:02x}" for at in range(1, 8))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent", WARM: "warm", FAINT: "faint", SURFACE: "card"}
WIDTH_IN = 11.4  # 820 pt: 9 pt text comes out at about 12 px on a 1120 px page

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "path.simplify_threshold": 0.3,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
}


@contextmanager
def chart_style(name: str) -> Iterator[None]:
    """Draw inside this; `name` makes the SVG's ids differ from those of the page's other charts."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the glyph, matplotlib need not
        yield


def to_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """`figure` as an `<svg role="img">` with a title and a description; call inside `chart_style(name)`."""
    held = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(held, format="svg", metadata=metadata)
    text = held.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"(font: [^;\"']*?)'DejaVu Sans'[^;\"]*", r"\1var(--sans)", text)
    head = f'<svg role="img" aria-labelledby="{name}-t {name}-d" class="chart"'
    text = re.sub(r'^<svg( xmlns:xlink="[^"]*")? width="[^"]*" height="[^"]*"', rf"{head}\1", text, count=1)
    inside = f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
    return Markup(re.sub(r"(^<svg[^>]*>)", lambda found: found[1] + inside, text, count=1).replace("\n  ", "\n"))


def bare(axes: Axes) -> Any:
    """Remove the frame and the grid of `axes`."""
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return axes
