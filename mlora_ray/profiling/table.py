"""A profile as a person reads it: every point, how far the fit is off, what is off by more than the bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlora_ray.profiling.run import BOUND

if TYPE_CHECKING:
    from rich.console import Console


def print_profile(result: dict[str, Any], console: Console) -> None:
    """Step times, memory, and the fitted terms."""
    _print_times(result, console)
    if result["memory_rows"]:
        _print_memory(result, console)
    profile = result["profile"]
    console.print(
        f"a step: {_ms(profile['floor_s'])} at least, {_ms(profile['layer_points'][-1][1])} for a row of "
        f"{profile['layer_points'][-1][0]:,.0f} tokens; an adapter {_ms(profile['per_adapter_s'])} and "
        f"{_ms(profile['per_rank_s'])} a rank, {profile['per_rank_token_s'] * 1e9:,.1f} ns a token and rank; "
        f"rows of {profile['token_budget']:,} tokens, open steps of {profile['open_ranks']:,.0f} ranks at most"
    )
    if memory := profile["memory"]:
        console.print(
            f"memory: {memory['fixed_bytes'] / 1e6:,.0f} MB beside the base's {profile['base_bytes'] / 1e6:,.0f} MB, "
            f"{memory['token_bytes'] / 1e6:.3f} MB a token, {memory['score_bytes']:,.0f} bytes a token and token of "
            f"its sequence, {memory['state_share']:.2f} of the states and open steps"
        )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """How far a fit is off, over its points."""
    off = sorted(abs(row["residual"]) for row in rows)
    over = sum(one > BOUND for one in off)
    return (
        f"{len(off) - over} of {len(off)} within {BOUND:.0%}; off by {sum(off) / len(off):.1%} in the mean, "
        f"{off[len(off) // 2]:.1%} in the median, {off[-1]:.1%} at worst"
    )


def _print_times(result: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(title=f"Group steps of {result['profile']['base']}: seconds, {result['clock']} time fitted")
    for head in ("tokens", "adapters", "r", "rows", "wall", "CPU", "fitted", "residual"):
        table.add_column(head, justify="right")
    for row in result["rows"]:
        sizes = (f"{row['tokens']:,}", str(row["num_adapters"]), str(row["lora_rank"]), str(row["packed_rows"]))
        times = (f"{row[name]:.4f}" for name in ("wall_s", "cpu_s", "fitted_s"))
        table.add_row(*sizes, *times, _residual(row))
    console.print(table)
    console.print(f"step times: {summary(result['rows'])}")


def _print_memory(result: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(title="Peak memory of a process: MB")
    for head in ("row", "sequences", "adapters", "r", "peak", "predicted", "residual", ""):
        table.add_column(head, justify="right")
    for row in result["memory_rows"]:
        sizes = (f"{row['tokens']:,}", str(row["row_tokens"]), str(row["num_adapters"]), str(row["lora_rank"]))
        peaks = (f"{row[name] / 1e6:,.0f}" for name in ("peak_bytes", "predicted_bytes"))
        table.add_row(*sizes, *peaks, _residual(row), "held out" if row["is_held_out"] else "")
    console.print(table)
    held_out = [row for row in result["memory_rows"] if row["is_held_out"]]
    console.print(f"memory, held out of the fit: {summary(held_out)}")


def _residual(row: dict[str, Any]) -> str:
    return f"{row['residual']:+.1%}{' *' if abs(row['residual']) > BOUND else ''}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"
