"""Plain data in and out of JSON: any frozen dataclass of `types`, back to an equal value.

Floats go out with `repr`, so a round trip is exact. A value whose type is a union of dataclasses
(an `Action`) carries its class name under `type`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types as builtin_types
import typing
from enum import Enum
from typing import Any

from mlora_ray import types as vocabulary


def to_plain(value: Any) -> Any:
    """`value` as lists, dicts and scalars; dataclasses carry their class name under `type`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {"type": type(value).__name__}
        return plain | {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    return value


def from_plain(hint: Any, plain: Any) -> Any:
    """The value of type `hint` that `to_plain` made `plain` from. Raises ValueError when it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, builtin_types.UnionType):
        return _from_union(args, plain)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(from_plain(args[0], v) for v in plain)
        return tuple(from_plain(a, v) for a, v in zip(args, plain, strict=True))
    if dataclasses.is_dataclass(hint):
        hints = _hints(typing.cast(type, hint))
        unknown = sorted(set(plain) - set(hints) - {"type"})
        if unknown:
            raise ValueError(f"{getattr(hint, '__name__', hint)} has no field {', '.join(unknown)}")
        return typing.cast(type, hint)(**{k: from_plain(hints[k], v) for k, v in plain.items() if k in hints})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(plain)
    return float(plain) if hint is float and isinstance(plain, int) else plain


def dumps(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(to_plain(value), separators=(",", ":"))


def loads(hint: Any, text: str) -> Any:
    return from_plain(hint, json.loads(text))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, vars(vocabulary))


def _from_union(args: tuple[Any, ...], plain: Any) -> Any:
    if plain is None and type(None) in args:
        return None
    kinds = [a for a in args if a is not type(None)]
    if len(kinds) == 1:
        return from_plain(kinds[0], plain)
    if type(plain) in kinds:  # a number or a text
        return plain
    named = {getattr(k, "__name__", ""): k for k in kinds}
    name = plain.get("type", "") if isinstance(plain, dict) else ""
    if name not in named:
        raise ValueError(f"type is {name!r}, allowed: {', '.join(sorted(named))}")
    return from_plain(named[name], plain)


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
