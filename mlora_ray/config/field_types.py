"""Numbers, switches and texts of job files and settings, each with the sentence of what is allowed."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field


def described(value: object) -> str:
    """A value with its type: the string '8', the number 8, true, null, a list, a mapping."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"the number {value}"
    return (
        f"the string {value[:60]!r}"
        if isinstance(value, str)
        else f"a {'list' if isinstance(value, list) else 'mapping'}"
    )


def _number(value: object) -> object:
    """Numbers only: no bool, no string, no NaN or infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a number, not {described(value)}")
    if not math.isfinite(value):
        raise ValueError("a finite number")
    return float(value)


Number = Annotated[float, BeforeValidator(_number)]


Rate = Annotated[Number, Field(ge=0)]


MOST = 1_000_000_000  # above it a number is a slip, and planning with it would take hours or memory


Count = Annotated[int, Field(strict=True, ge=0, le=MOST)]


Positive = Annotated[int, Field(strict=True, ge=1, le=MOST)]


Switch = Annotated[bool, Field(strict=True)]


Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


Text = Annotated[str, Field(strict=True, min_length=1)]
