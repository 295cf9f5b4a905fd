"""Sizes of memory as people write them: `8GB`."""

from __future__ import annotations

import re

from mlora_ray.errors import command_line_mistake

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str, field: str) -> int:
    """`8GB`, `512MiB`, `1.5g` or a plain number, in bytes; 0 for an empty text. Raises InputError."""
    if not text:
        return 0
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    size = int(float(match[1]) * UNITS[match[2] or ""]) if match else 0
    if size <= 0:
        raise command_line_mistake(field, text, "a size above zero, such as 8GB, 512MiB or 2000000000")
    return size
