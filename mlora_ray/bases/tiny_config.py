"""A config of the same structure as a base's, small enough to try things on: few layers, small widths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MIN_LAYERS = 2
VOCAB_SIZE = 384
INTERMEDIATE_SIZE = 96
WINDOW = 8  # shorter than the rows it is tried on
SCALED_FROM = 16  # rope that changes with the length changes from here
MAX_POSITION = 256
WINDOWS = ("sliding_window", "sliding_window_size", "window_size", "attention_chunk_size", "attention_window_size")
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
# How often a layer of another kind comes: a tiny copy needs so many layers.
PERIODS = (
    "attn_layer_period",
    "expert_layer_period",
    "full_attention_interval",
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "moe_layer_frequency",
    "no_rope_layer_interval",
    "sliding_window_pattern",
)


def tiny_config(config: PreTrainedConfig, layers: int = 0, is_narrow: bool = True) -> PreTrainedConfig:
    """A small copy of `config`: head widths, biases, norms, windows, experts and kinds of layers as in the original.

    `layers` of 0: as many first layers as hold one of each kind. `is_narrow`: fewer heads, so a narrower hidden state.
    """
    settings = _small(config, layers, is_narrow)
    settings.pop("quantization_config", None)
    settings.pop("dtype", None)
    return type(config).from_dict(settings)


def num_layers(config: PreTrainedConfig) -> int:
    """Of the decoder; 0 where its config does not say."""
    return int(_get(config.get_text_config(), "num_hidden_layers") or 0)


def _small(config: PreTrainedConfig, layers: int, is_narrow: bool) -> dict[str, Any]:
    from transformers import PreTrainedConfig

    settings = config.to_dict()
    for name, value in settings.items():
        inner = _get(config, name)
        if isinstance(inner, PreTrainedConfig):
            settings[name] = _small(inner, layers, is_narrow)
        elif type(value) is int and ("intermediate_size" in name or name in ("ffn_dim", "n_inner", "ffn_hidden_size")):
            settings[name] = min(value, INTERMEDIATE_SIZE)
        elif type(value) is int and name in WINDOWS:
            settings[name] = min(value, WINDOW)
        elif type(value) is int and name.startswith("vocab_size"):
            settings[name] = min(value, VOCAB_SIZE)
        elif name in SPECIAL_TOKENS and value is not None:
            settings[name] = SPECIAL_TOKENS.index(name)
    if is_narrow:
        _narrow(config, settings)
    _shorten(config, settings, layers)
    _scale_sooner(config, settings)
    return settings


def _get(config: PreTrainedConfig, name: str) -> Any:
    """None where it has no such setting, or one of each layer's own."""
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return None


def _own_name(config: PreTrainedConfig, name: str) -> str:
    """`n_embd` for `hidden_size` in a config that calls it so."""
    return str(type(config).attribute_map.get(name, name))


def _narrow(config: PreTrainedConfig, settings: dict[str, Any]) -> None:
    """Fewer heads of the same width; whatever was as wide as the hidden state stays so."""
    hidden, heads = _get(config, "hidden_size"), _get(config, "num_attention_heads")
    if type(hidden) is not int or type(heads) is not int or heads < 2:
        return
    key_heads = _get(config, "num_key_value_heads") or heads
    if type(key_heads) is not int or heads % key_heads:
        return
    few_keys = min(key_heads, 2)
    few_heads = few_keys * min(heads // key_heads, 2)
    width = _get(config, "head_dim") or hidden // heads
    narrow = few_heads * width if heads * width == hidden else max(64, few_heads * width // 2)
    if narrow >= hidden:
        return
    for name, value in settings.items():
        if type(value) is int and value == hidden and "vocab" not in name and "position" not in name:
            settings[name] = narrow
    settings[_own_name(config, "num_attention_heads")] = few_heads
    if _get(config, "num_key_value_heads"):
        settings[_own_name(config, "num_key_value_heads")] = few_keys


def _shorten(config: PreTrainedConfig, settings: dict[str, Any], layers: int) -> None:
    total = _get(config, "num_hidden_layers")
    if type(total) is not int:
        return
    by_layer = [n for n, v in settings.items() if isinstance(v, list | tuple) and len(v) == total and total > 1]
    few = min(total, layers or _needed(config, [settings[name] for name in by_layer]))
    for name in by_layer:
        settings[name] = list(settings[name])[:few]
    for name in ("first_k_dense_replace", "num_dense_layers", "max_window_layers", "num_kv_shared_layers"):
        if type(settings.get(name)) is int:
            settings[name] = min(settings[name], few - 1)
    if isinstance(by_index := settings.get("per_layer_config"), dict):
        settings["per_layer_config"] = {at: one for at, one in by_index.items() if int(at) < few}
    settings[_own_name(config, "num_hidden_layers")] = few


def _needed(config: PreTrainedConfig, by_layer: list[list[Any]]) -> int:
    """Layers from the first on that hold every kind there is."""
    kinds: set[str] = set()
    need = max([MIN_LAYERS, *(int(_get(config, name) or 0) for name in PERIODS)])
    for at, kind in enumerate(map(str, zip(*by_layer, strict=True))):
        if kind not in kinds:
            need = max(need, at + 1)
        kinds.add(kind)
    return need


def _scale_sooner(config: PreTrainedConfig, settings: dict[str, Any]) -> None:
    """Rope whose frequencies depend on the row's length changes within the rows it is tried on, by the same factor."""
    limit = _get(config, "max_position_embeddings")
    if type(limit) is not int:
        return
    own = _own_name(config, "max_position_embeddings")
    settings[own] = min(limit, MAX_POSITION)
    rope = settings.get("rope_parameters") or {}
    for one in [rope, *(v for v in rope.values() if isinstance(v, dict))]:
        if one.get("rope_type") in ("longrope", "dynamic"):
            before = one.get("original_max_position_embeddings") or limit
            settings[own] = max(SCALED_FROM, math.ceil(SCALED_FROM * limit / before))
            if "original_max_position_embeddings" in one:
                one["original_max_position_embeddings"] = SCALED_FROM
    if type(settings.get("original_max_position_embeddings")) is int:
        settings["original_max_position_embeddings"] = SCALED_FROM
