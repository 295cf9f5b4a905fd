"""Which linear modules a LoraSpec adapts, and with which rank: PEFT's rules on plain module names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mlora_ray.types import LoraSpec

ALL_LINEAR = "all-linear"
LAYER_INDEX = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")


def select_targets(lora: LoraSpec, linears: Iterable[str]) -> dict[str, int]:
    """LoRA rank of every adapted module, in the order of `linears`: the base's linears without its output head.

    `all-linear` means all of them. A name matches a module of that name or one that ends with `.name`;
    a single entry that is not a plain name is a regular expression for the whole name. `exclude_modules` likewise.
    `layers_to_transform` keeps only modules of these layers (see `layer_index`).
    """
    wanted = [name for name in linears if _is_adapted(lora, name)]
    return {name: rank_of(lora, name) for name in wanted}


def _is_adapted(lora: LoraSpec, name: str) -> bool:
    if lora.target_modules != (ALL_LINEAR,) and not is_named(lora.target_modules, name):
        return False
    if is_named(lora.exclude_modules, name):
        return False
    return not lora.layers_to_transform or layer_index(name, lora.layers_pattern) in lora.layers_to_transform


def is_named(names: tuple[str, ...], module: str) -> bool:
    """Whether `names`, those of modules or one regular expression, mean this module."""
    if is_regex(names):
        return re.fullmatch(names[0], module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def is_regex(names: tuple[str, ...]) -> bool:
    """Whether `names` is one regular expression rather than names."""
    return len(names) == 1 and re.fullmatch(r"[\w.\-]+", names[0]) is None


def layer_index(name: str, patterns: tuple[str, ...] = ()) -> int | None:
    """The layer a module sits in: 3 for `layers.3.self_attn.q_proj` below a root; None outside the layers.

    With `patterns`: the number after the first of them that is followed by one (`layers_pattern`).
    """
    for pattern in patterns:
        if match := re.match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", name):
            return int(match["index"])
    match = None if patterns else LAYER_INDEX.match(name)
    return int(match["index"]) if match else None


def rank_of(lora: LoraSpec, name: str) -> int:
    """`lora.r`, unless a pattern of `rank_pattern` matches the end of the module's name; the first one wins."""
    return next((rank for pattern, rank in lora.rank_pattern if _ends_with(pattern, name)), lora.r)


def alpha_of(lora: LoraSpec, name: str) -> float:
    """`lora.lora_alpha`, unless a pattern of `alpha_pattern` matches the end of the module's name."""
    return next((alpha for pattern, alpha in lora.alpha_pattern if _ends_with(pattern, name)), lora.lora_alpha)


def _ends_with(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def unmatched_patterns(patterns: Iterable[tuple[str, float]], names: Iterable[str]) -> list[str]:
    """Keys of `rank_pattern` or `alpha_pattern` that match none of `names`."""
    held = list(names)
    return [pattern for pattern, _ in patterns if not any(_ends_with(pattern, name) for name in held)]


def layer_indices(names: Iterable[str], patterns: tuple[str, ...] = ()) -> list[int]:
    """Sorted indices of the layers that `names` sit in."""
    found = (layer_index(name, patterns) for name in names)
    return sorted({index for index in found if index is not None})


def layer_lists(names: Iterable[str]) -> list[str]:
    """What holds the numbered layers, as a user would write it in `layers_pattern`."""
    found = {name[: match.start("index")] for name in names if (match := LAYER_INDEX.match(name))}
    return sorted(prefix.rstrip(".").rsplit(".", 1)[-1] for prefix in found)


def short_names(shapes: Mapping[str, object]) -> list[str]:
    """The distinct last parts of module names, as a user would write them in `target_modules`."""
    return sorted({name.rsplit(".", 1)[-1] for name in shapes})
