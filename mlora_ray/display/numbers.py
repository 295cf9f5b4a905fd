"""Numbers as a person reads them: bytes, seconds, losses. Standard library only."""

from __future__ import annotations

import math


def show_bytes(num_bytes: float) -> str:
    """Decimal units, three digits: `1.95 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def show_seconds(seconds: float | None) -> str:
    """`0.42 s`, `12.3 s`, `4m05s`, `2h07m`; `–` when unknown."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{whole % 60:02d}s"


def show_loss(loss: float | None) -> str:
    """Four decimals, fewer for large values; `–` when there is none or it is not a number."""
    if loss is None or not math.isfinite(loss):
        return "–"
    return f"{loss:.4f}" if abs(loss) < 100 else f"{loss:.4g}"


def show_rate(tokens_per_s: float | None) -> str:
    """Tokens per second with thousands separators: `1,234`."""
    if tokens_per_s is None or not math.isfinite(tokens_per_s):
        return "–"
    return f"{tokens_per_s:,.0f}" if tokens_per_s >= 10 else f"{tokens_per_s:.2g}"


def count(number: int, noun: str) -> str:
    """`1 job`, `8 jobs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
