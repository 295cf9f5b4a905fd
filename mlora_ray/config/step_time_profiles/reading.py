"""Profiles in and out of JSON: by the name of one that ships, or by the path of a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from mlora_ray.errors import InputError, Mistake
from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.types import MemoryModel

_FOLDER = Path(__file__).parent
SHIPPED = tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))
_FIELDS = {f.name: f for f in dataclasses.fields(StepTimeModel) if f.init}


def read_profile(name: str) -> StepTimeModel:
    """The profile of that name or path. Raises InputError that names the file, the field and what is allowed."""
    path = _FOLDER / f"{name}.json" if name in SHIPPED else Path(name)
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        allowed = f"a JSON profile, or one of {', '.join(SHIPPED)}: {error}"
        raise InputError([Mistake(file=str(path), field="profile", value=name, allowed=allowed)]) from error
    mistakes = _mistakes(str(path), held)
    if mistakes:
        raise InputError(mistakes)
    try:
        held["memory"] = MemoryModel(**held["memory"]) if held.get("memory") else None
        return StepTimeModel(**{name: _as_tuple(value) for name, value in held.items()})
    except (TypeError, ValueError) as error:
        raise InputError([Mistake(file=str(path), field="profile", value="", allowed=f"sound: {error}")]) from error


def write_profile(model: StepTimeModel, path: str) -> None:
    """One file that `read_profile` reads back as an equal model."""
    held = {name: getattr(model, name) for name in _FIELDS}
    held["memory"] = dataclasses.asdict(model.memory) if model.memory else None
    Path(path).write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def _mistakes(file: str, held: Any) -> list[Mistake]:
    if not isinstance(held, dict):
        return [Mistake(file=file, field="profile", value=type(held).__name__, allowed="one JSON object")]
    unknown = sorted(held.keys() - _FIELDS.keys())
    allowed = f"an unknown field; the fields are {', '.join(_FIELDS)}"
    found = [Mistake(file=file, field=name, value=str(held[name]), allowed=allowed, verb="is") for name in unknown]
    missing = [name for name in ("id", "layer_points") if name not in held]
    return found + [Mistake(file=file, field=name, value="", allowed="missing", verb="is") for name in missing]


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value
