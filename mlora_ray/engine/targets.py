"""Which linears an adapter changes and at what rank: PEFT's own selection rules. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlora_ray.types import LoraSpec

ALL_LINEAR = "all-linear"


def select(lora: LoraSpec, names: Iterable[str]) -> dict[str, int]:
    """Rank of every linear among `names` that the adapter changes, in the order of `names`."""
    return {name: rank_of(lora, name) for name in names if is_target(lora, name)}


def is_target(lora: LoraSpec, name: str) -> bool:
    """A target is a whole name, its dotted suffix, or (written alone) a regular expression over the whole name."""
    targets = lora.target_modules
    hit = targets == (ALL_LINEAR,) or any(name == t or name.endswith(f".{t}") for t in targets)
    if not hit and len(targets) == 1:
        hit = _fullmatch(targets[0], name)
    return hit and (not lora.layers_to_transform or layer_of(name) in lora.layers_to_transform)


def layer_of(name: str) -> int:
    """Index of the decoder layer a module path belongs to, or -1."""
    found = re.match(r".*?\.(\d+)\.", f".{name}.")
    return int(found.group(1)) if found else -1


def rank_of(lora: LoraSpec, name: str) -> int:
    """`rank_pattern`'s first key that ends the name, else `r`."""
    for key, rank in lora.rank_pattern:
        if re.match(rf"(.*\.)?({key})$", name):
            return rank
    return lora.r


def _fullmatch(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False
