"""Cluster traces: `philly:FILE`, `helios:FILE`, `acme:FILE`, `jsonl:FILE` (each gzip too) and `synthetic:philly`.

Every format becomes rows of (submit_s, duration_s, num_devices, tenant), sorted by submit time. Nothing is filtered
here: `filter_rows` says which filter took which rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlora_ray.errors import InputError, Mistake
from mlora_ray.simulate.synthetic import synthetic_philly

MAX_MISTAKES = 20
DAY_S = 86400.0


class TraceRow(NamedTuple):
    """One job as the trace has it."""

    submit_s: float
    duration_s: float
    num_devices: int
    tenant: str


class Columns(NamedTuple):
    """Which column of a format says what; times of ISO form become seconds since the first."""

    submit: str
    duration: str
    devices: str
    tenant: str


FORMATS: Mapping[str, Columns] = {
    "philly": Columns("submit_s", "duration_s", "num_gpus", "vc"),
    "helios": Columns("submit_s", "duration_s", "num_gpus", "vc"),
    "acme": Columns("submit_time", "duration", "gpu_num", "user"),
    "jsonl": Columns("submit_s", "duration_s", "num_devices", "tenant"),
}
# Columns that need not be there, and what stands for them.
OPTIONAL = {"num_devices": 1, "tenant": "default", "vc": "default", "user": "default"}


def read_trace(name: str, seed: int = 0) -> list[TraceRow]:
    """The rows of `FORMAT:FILE` or `synthetic:philly`. Raises InputError with every mistake, each at its line."""
    kind, _, where = name.partition(":")
    if name == "synthetic:philly":
        return [TraceRow(*row) for row in synthetic_philly(seed)]
    if kind not in FORMATS or not where:
        allowed = f"{', '.join(f'{k}:FILE' for k in FORMATS)} or synthetic:philly"
        raise InputError([Mistake(file="command line", field="trace", value=name, allowed=allowed)])
    return _checked(where, _records(kind, where), FORMATS[kind])


def read_text(where: str) -> str:
    """A file, gzip or not, as text. Raises InputError."""
    try:
        raw = Path(where).read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError([Mistake(file=where, field="trace", value="", allowed=f"a readable file: {error}")]) from error


def _records(kind: str, where: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line, fields) of every record. Raises InputError where the file cannot be read."""
    text = read_text(where)
    if kind != "jsonl":
        try:
            yield from ((at + 2, row) for at, row in enumerate(csv.DictReader(io.StringIO(text))))
        except csv.Error as error:
            raise InputError([Mistake(file=where, field="trace", value="", allowed=f"a CSV: {error}")]) from error
        return
    for at, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            held = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                [Mistake(file=where, line=at, field="line", value=line[:60], allowed=f"JSON: {error}")]
            ) from error
        if not isinstance(held, dict):
            raise InputError([Mistake(file=where, line=at, field="line", value=line[:60], allowed="a JSON object")])
        yield at, held


def _checked(where: str, records: Iterator[tuple[int, Mapping[str, Any]]], columns: Columns) -> list[TraceRow]:
    rows: list[TraceRow] = []
    mistakes: list[Mistake] = []
    for line, held in records:
        missing = [c for c in columns if c not in held and c not in OPTIONAL]
        if missing:
            allowed = f"a column: those needed are {', '.join(columns)}; there are {', '.join(map(str, held))}"
            raise InputError([Mistake(file=where, line=line, field=c, value="", allowed=allowed) for c in missing])
        found: list[Any] = []
        for column, (read, allowed) in zip(columns, _READERS, strict=True):
            value = held.get(column, OPTIONAL.get(column))
            try:
                found.append(read(value))
            except (ValueError, TypeError, OverflowError):
                mistakes.append(Mistake(file=where, line=line, field=column, value=str(value), allowed=allowed))
        if len(found) == len(columns):
            row = TraceRow(*found)
            if rows and row.submit_s < rows[-1].submit_s and not mistakes:
                allowed = f"at least {rows[-1].submit_s:g}, which the row before has: rows are sorted by it"
                value = str(held.get(columns.submit))
                mistakes.append(Mistake(file=where, line=line, field=columns.submit, value=value, allowed=allowed))
            rows.append(row)
        if len(mistakes) >= MAX_MISTAKES:
            break
    if mistakes:
        raise InputError(mistakes)
    if not rows:
        raise InputError([Mistake(file=where, field="trace", value="", allowed="a file with rows; it has none")])
    first = rows[0].submit_s
    return [row._replace(submit_s=row.submit_s - first) for row in rows]


def _time(value: Any) -> float:
    """Seconds, or an ISO date."""
    try:
        found = float(value)
    except ValueError:
        found = datetime.fromisoformat(str(value)).timestamp()
    if not math.isfinite(found):
        raise ValueError(value)
    return found


def _duration(value: Any) -> float:
    found = float(value)
    if not (math.isfinite(found) and found >= 0):
        raise ValueError(value)
    return found


def _devices(value: Any) -> int:
    found = float(value)
    if found < 0 or found != int(found):
        raise ValueError(value)
    return int(found)


_READERS: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (_time, "seconds or an ISO date"),
    (_duration, "seconds, 0 or more"),
    (_devices, "a whole number, 0 or more"),
    (str, "text"),
)


class Kept(NamedTuple):
    """What a filter left, and what each of its rules took, in order."""

    rows: list[TraceRow]
    taken: tuple[tuple[str, int], ...]
    share_of_jobs: float
    share_of_device_time: float


def filter_rows(rows: list[TraceRow], min_s: float = 60.0, max_s: float = DAY_S, max_devices: int = 8) -> Kept:
    """Jobs of `min_s` to `max_s` on 1 to `max_devices` devices. Raises InputError where nothing is left."""
    rules: tuple[tuple[str, Callable[[TraceRow], bool]], ...] = (
        (f"duration below {min_s:g} s", lambda r: r.duration_s >= min_s),
        (f"duration above {max_s:g} s", lambda r: r.duration_s <= max_s),
        ("no device", lambda r: r.num_devices > 0),
        (f"more than {max_devices} devices", lambda r: r.num_devices <= max_devices),
    )
    left, taken = rows, []
    for name, keeps in rules:
        kept = [row for row in left if keeps(row)]
        taken.append((name, len(left) - len(kept)))
        left = kept
    if not left:
        said = ", ".join(f"{name}: {num:,}" for name, num in taken)
        allowed = f"one that leaves a job: none is left of {len(rows):,}; taken by {said}"
        raise InputError([Mistake(file="trace", field="filter", value="", allowed=allowed)])
    work = sum(r.duration_s * r.num_devices for r in rows)
    return Kept(left, tuple(taken), len(left) / len(rows), sum(r.duration_s * r.num_devices for r in left) / work)
