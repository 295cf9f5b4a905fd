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
    a single entry that is not a plain name is a regular expression for the whole name.
    `layers_to_transform` keeps only modules of these layers (the first number between dots).
    """
    wanted = [name for name in linears if _is_named(lora, name)]
    if lora.layers_to_transform:
        wanted = [name for name in wanted if layer_index(name) in lora.layers_to_transform]
    return {name: rank_of(lora, name) for name in wanted}


def _is_named(lora: LoraSpec, name: str) -> bool:
    targets = lora.target_modules
    if targets == (ALL_LINEAR,):
        return True
    if is_regex(targets):
        return re.fullmatch(targets[0], name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def is_regex(targets: tuple[str, ...]) -> bool:
    """Whether `targets` is one regular expression rather than names."""
    return len(targets) == 1 and re.fullmatch(r"[\w.\-]+", targets[0]) is None


def layer_index(name: str) -> int | None:
    """The layer a module sits in: 3 for `layers.3.self_attn.q_proj` below a root; None outside the layers."""
    match = LAYER_INDEX.match(name)
    return int(match["index"]) if match else None


def rank_of(lora: LoraSpec, name: str) -> int:
    """`lora.r`, unless a pattern of `rank_pattern` matches the end of the module's name; the first one wins."""
    for pattern, rank in lora.rank_pattern:
        if re.match(rf"(.*\.)?({pattern})$", name):
            return rank
    return lora.r


def unmatched_patterns(lora: LoraSpec, names: Iterable[str]) -> list[str]:
    """Keys of `rank_pattern` that match none of `names`."""
    held = list(names)
    return [p for p, _ in lora.rank_pattern if not any(re.match(rf"(.*\.)?({p})$", n) for n in held)]


def layer_indices(names: Iterable[str]) -> list[int]:
    """Sorted indices of the layers that `names` sit in."""
    return sorted({i for i in map(layer_index, names) if i is not None})


def short_names(shapes: Mapping[str, object]) -> list[str]:
    """The distinct last parts of module names, as a user would write them in `target_modules`."""
    return sorted({name.rsplit(".", 1)[-1] for name in shapes})
