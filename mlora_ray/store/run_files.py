"""Reading a run directory: what `train` leaves in DIR and in DIR/<job>. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlora_ray.errors import StorageError


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object; an empty dict when there is no such file. Raises StorageError when it is broken."""
    if not path.is_file():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{path}: broken JSON: {error}") from error
    if not isinstance(held, dict):
        raise StorageError(f"{path}: expected a JSON object, found {type(held).__name__}")
    return held


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The steps of a metrics.jsonl, in order of `step`.

    A step written twice (before and after a resume) counts once, the later line wins. A torn last line, as a
    killed process leaves it, is skipped. Raises StorageError for a broken line anywhere else.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    steps: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            held = json.loads(line)
            steps[int(held["step"])] = held
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise StorageError(f"{path}:{number}: broken line: {error}") from error
    return [steps[step] for step in sorted(steps)]
