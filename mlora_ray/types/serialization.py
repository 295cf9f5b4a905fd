"""Plain data in and out of JSON: any frozen dataclass of ours, back to an equal value.

The outermost carries its class name under `type`, which tells the members of a union, such as `Action`, apart. Earlier
versions wrote it into every dataclass: it is read over. NaN and infinities are the constants of Python's `json`.
"""

from __future__ import annotations

import functools
import math
import reprlib
import typing
from dataclasses import is_dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json
from typing_extensions import TypeAliasType

CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


def to_plain(value: Any) -> Any:
    """`value` as lists, dicts and scalars. Raises ValueError where a field holds what is not of its type."""
    kind: Any = type(value)
    plain = _adapter(kind).dump_python(value, mode="json", warnings="error")
    return {"type": kind.__name__} | plain if is_dataclass(value) else plain


def from_plain(hint: Any, plain: Any) -> Any:
    """The value of type `hint` that `to_plain` made `plain` from. Raises ValueError when it does not fit."""
    kind = _member(hint, plain)
    try:
        return _adapter(kind).validate_python(_untagged(plain))
    except ValidationError as error:
        name = getattr(kind, "__name__", str(kind))
        raise ValueError("; ".join(_sentence(name, e) for e in error.errors(include_url=False))) from error


def dumps(value: Any) -> str:
    """One line of JSON in ASCII."""
    return to_json(to_plain(value), inf_nan_mode="constants", ensure_ascii=True).decode()


def loads(hint: Any, text: str) -> Any:
    """Raises ValueError where it is no JSON, or does not fit."""
    return from_plain(hint, from_json(text))


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    # A dataclass itself takes no config from outside; behind an alias it does, and hands it to those within.
    fact: Any = TypeAliasType("Fact", hint)
    return TypeAdapter(fact, config=CONFIG)


def _member(hint: Any, plain: Any) -> Any:
    """Which of a union of dataclasses; any other hint as it is."""
    kinds = {kind.__name__: kind for kind in typing.get_args(hint) if is_dataclass(kind) and isinstance(kind, type)}
    if len(kinds) < 2:
        return hint
    name = plain.get("type", "") if isinstance(plain, dict) else ""
    if name not in kinds:
        raise ValueError(f"type is {name!r}, allowed: {', '.join(sorted(kinds))}")
    return kinds[name]


def _untagged(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _untagged(value) for key, value in plain.items() if key != "type"}
    return [_untagged(value) for value in plain] if isinstance(plain, list) else plain


def _sentence(name: str, error: ErrorDetails) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "unexpected_keyword_argument":
        return f"{name} has no field {where}"
    if error["type"] == "missing":
        return f"{name} needs {where}"
    return f"{name}{where and ': '}{where} is {reprlib.repr(error['input'])}: {error['msg']}"


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity in it replaced by None: strict JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [finite(held) for held in value]
    return value


def number(value: Any) -> float | None:
    """`value` as a finite float, or None: what charts and tables may use."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
