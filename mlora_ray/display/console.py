"""Where lines and JSON of the commands go."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(to_stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=to_stderr)


def say(out: Console, line: str) -> None:
    """One line, as it is: no markup, no wrapping."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One line of strict JSON on standard output, at once: whoever follows reads it now."""
    from mlora_ray.types.serialization import finite

    print(json.dumps(finite(value), ensure_ascii=False), flush=True)
