"""Tiny random models of each architecture, stock from transformers, and the same ones prepared as bases."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mlora_ray.engine.base import Base, prepare_base
from mlora_ray.types import BaseSpec

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
# class prefix of transformers -> settings over SMALL
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": GROUPED | {"attention_bias": True},
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 24},
    "Gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "Gemma2": GROUPED | {"head_dim": 16, "sliding_window": 7, "attn_logit_softcapping": 2.0},
    "Mistral": GROUPED | {"sliding_window": 9},
    "Phi": {"partial_rotary_factor": 0.5},
    "Phi3": GROUPED | {"sliding_window": 11},
    "GPTNeoX": {"rotary_pct": 0.25},
    "Glm": GROUPED | {"head_dim": 16},
}


def stock_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A random `<name>ForCausalLM` with eager attention, in eval mode. Weights large enough for uneven attention."""
    import transformers

    config = getattr(transformers, f"{name}Config")(**(SMALL | ARCHITECTURES[name]))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(dtype).eval()


def as_base(model: nn.Module, tile: int = 64) -> Base:
    """A prepared copy; the stock model stays as it is."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    spec = BaseSpec(name="tiny", path="", dtype=dtype)
    return prepare_base(copy.deepcopy(model), spec, tile=tile)
