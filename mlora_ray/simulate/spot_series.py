"""Series of how many spot machines a zone had: read from a file, cut to the hours that a simulation covers.

An `.npz` holds a one-dimensional array of machines available a tick under each series' name; beside it lies its index,
`<stem>_index.csv` (or `.csv.gz`), with the columns `trace` and `gap_s`, the seconds of a tick. A `.csv` (or `.csv.gz`)
holds a line a change with the columns `zone`, `at_s` and `available`, a zone's lines sorted by `at_s`.
"""

from __future__ import annotations

import bisect
import csv
import gzip
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlora_ray.errors import InputError, Mistake
from mlora_ray.simulate.elastic_simulation import SpotSeries

MAX_MISTAKES = 20


def read_spot_series(path: Path) -> list[SpotSeries]:
    """Every series of the file, by name. Raises InputError with the mistakes, each at its series or line."""
    found = _from_arrays(path) if path.suffix == ".npz" else _from_lines(path)
    if not found:
        raise InputError([Mistake(file=str(path), field="series", value="", allowed="in the file; it has none")])
    return sorted(found, key=lambda series: series.zone)


def span_s(series: SpotSeries) -> float:
    """Seconds from its first to its last change."""
    return series.at_s[-1] - series.at_s[0]


def cut(series: SpotSeries, start_s: float, length_s: float, zone: str, depth: int = 1) -> SpotSeries:
    """`length_s` seconds from `start_s` on, which becomes second 0; changes only.

    `depth`: a machine counts for so many. A series that ends sooner goes on from its own beginning.
    """
    changes = [(0.0, series.at(start_s) * depth)]
    shift_s, first = -start_s, bisect.bisect_right(series.at_s, start_s)
    while series.at_s[0] + shift_s <= length_s:
        for at in range(first, len(series.at_s)):
            when_s, number = series.at_s[at] + shift_s, series.available[at] * depth
            if number != changes[-1][1] and when_s <= length_s:
                changes = [*changes, (when_s, number)] if when_s > changes[-1][0] else [*changes[:-1], (when_s, number)]
        first, shift_s = 0, shift_s + (span_s(series) or math.inf)
    return SpotSeries(zone=zone, at_s=tuple(at for at, _ in changes), available=tuple(num for _, num in changes))


def _from_arrays(path: Path) -> list[SpotSeries]:
    gaps = _gaps(path)
    found, mistakes = [], []
    try:
        with np.load(path) as arrays:
            held = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    for name, counts in held.items():
        if name not in gaps:
            allowed = f"a series of the index, which names {len(gaps)}"
            mistakes.append(Mistake(file=str(path), field="series", value=name, allowed=allowed))
        elif why := _why_no_counts(counts):
            mistakes.append(Mistake(file=str(path), field=name, value=str(counts.dtype), allowed=why))
        else:
            found.append(_changes(name, counts, gaps[name]))
    if mistakes:
        raise InputError(mistakes[:MAX_MISTAKES])
    return found


def _why_no_counts(counts: NDArray[np.generic]) -> str:
    if counts.ndim != 1 or len(counts) < 2 or counts.dtype.kind not in "iu":
        return f"whole numbers in one dimension, two or more; it has shape {counts.shape}"
    return "0 machines or more" if counts.min() < 0 else ""


def _changes(name: str, counts: NDArray[np.generic], gap_s: float) -> SpotSeries:
    """The ticks at which the number changes, and the last, so that the series keeps its length."""
    keep = np.flatnonzero(np.r_[True, counts[1:] != counts[:-1]])
    ticks = [int(at) for at in keep] + ([len(counts) - 1] if keep[-1] != len(counts) - 1 else [])
    return SpotSeries(
        zone=name,
        at_s=tuple(at * gap_s for at in ticks),
        available=tuple(int(counts[at]) for at in ticks),
    )


def _gaps(path: Path) -> dict[str, float]:
    """Seconds of a tick of each series, from the index beside the arrays."""
    names = [path.with_name(f"{path.stem}_index{end}") for end in (".csv", ".csv.gz")]
    index = next((name for name in names if name.exists()), None)
    if index is None:
        allowed = f"beside it: {' or '.join(name.name for name in names)}, with columns trace and gap_s"
        raise InputError([Mistake(file=str(path), field="index", value="", allowed=allowed)])
    gaps = {}
    for line, row in _rows(index, ("trace", "gap_s")):
        gap_s = _number(row["gap_s"])
        if not gap_s > 0:
            raise InputError([_mistake(index, line, "gap_s", row["gap_s"], "seconds above 0")])
        gaps[row["trace"]] = gap_s
    return gaps


def _from_lines(path: Path) -> list[SpotSeries]:
    held: dict[str, list[tuple[float, int]]] = {}
    mistakes: list[Mistake] = []
    for line, row in _rows(path, ("zone", "at_s", "available")):
        at_s, available = _number(row["at_s"]), _number(row["available"])
        changes = held.setdefault(row["zone"], [])
        if not math.isfinite(at_s) or (changes and at_s <= changes[-1][0]):
            mistakes.append(_mistake(path, line, "at_s", row["at_s"], "seconds, later than the zone's line before"))
        elif not (available >= 0 and available == int(available)):
            mistakes.append(_mistake(path, line, "available", row["available"], "a whole number, 0 or more"))
        else:
            changes.append((at_s, int(available)))
    if mistakes:
        raise InputError(mistakes[:MAX_MISTAKES])
    return [
        SpotSeries(zone=zone, at_s=tuple(at for at, _ in changes), available=tuple(num for _, num in changes))
        for zone, changes in held.items()
    ]


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, fields) of a CSV file, gzip or not. Raises InputError where it, or a column, is missing."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        allowed = f"a column: those needed are {', '.join(columns)}; there are {', '.join(reader.fieldnames or ())}"
        raise InputError([_mistake(path, 1, name, "", allowed) for name in missing])
    for line, row in enumerate(reader, start=2):
        yield line, {name: row[name] or "" for name in columns}


def _number(text: str) -> float:
    """Not a number where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _mistake(path: Path, line: int, field: str, value: str, allowed: str) -> Mistake:
    return Mistake(file=str(path), line=line, field=field, value=value, allowed=allowed)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError([Mistake(file=str(path), field="series", value="", allowed=f"a readable file: {error}")])
