"""Decoder families of transformers by model type; as a program it writes docs/supported-bases.md.

python -m tests.engine.families docs/supported-bases.md
"""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mlora_ray.engine.base_proof import prove

# Compared with PEFT by hand once, with the weights and gradients of whole families: none may change sides.
_EQUAL = """
llama qwen2 qwen3 gemma gemma2 gemma3_text gemma4_text mistral ministral ministral3 phi phi3 gpt_neox gpt_bigcode
opt biogpt stablelm persimmon cohere cohere2 olmo olmo2 olmo3 granite smollm3 starcoder2 nemotron helium glm glm4
exaone4 seed_oss ernie4_5 hunyuan_v1_dense diffllama apertus vaultgemma nanochat minicpm3
"""
_WRONG = """
bloom xglm gptj codegen gpt_neox_japanese modernbert-decoder lfm2 lfm2_moe granitemoehybrid bamba jamba
recurrent_gemma rwkv mamba mamba2 falcon_mamba falcon_h1 nemotron_h minimax qwen3_next qwen3_5_text olmo_hybrid
kimi_linear gpt2 mpt gpt_neo
"""
EQUAL, WRONG = frozenset(_EQUAL.split()), frozenset(_WRONG.split())
# Where the default config of a family is not one that can be made.
SETTINGS: dict[str, dict[str, object]] = {
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "ministral": {"head_dim": 128},
    "hunyuan_v1_dense": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1},
}
LIMIT_S = 10  # of one family, so that the table is done in minutes
HEAD = """# Which bases train here

Made by `make supported-bases` with transformers {transformers} and torch {torch}, bfloat16 on the CPU: each family's
default config is proven on a tiny random copy of itself (see `mlora_ray/engine/base_proof.py`). `equal`: packed rows
give the loss and LoRA gradients of the stock model alone, a neighbour's NaN changes no bit, and no bit moves with a
sequence's place. Everything else is refused by `mlora-ray check` and at load, with the reason given here. A base is
proven by its own config, so one of a refused family with other settings may be accepted, and the reverse.

| family (`model_type`) | result |
|---|---|
"""


def decoder_families() -> list[str]:
    """Model types that transformers can make as causal language models."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def outcome(family: str, dtype: torch.dtype = torch.bfloat16) -> str:
    """Why the family is refused; empty when it is right."""
    try:
        config = AutoConfig.for_model(family, **SETTINGS.get(family, {}))
    except Exception as error:  # noqa: BLE001 - a family without a default config has no row of its own
        return f"its default config cannot be made ({type(error).__name__})"
    return prove(config, dtype)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"its proof takes more than {LIMIT_S} s of CPU time")


def write_table(path: Path) -> None:
    """A line a family, the equal ones first."""
    signal.signal(signal.SIGPROF, _too_long)
    found = {}
    for family in decoder_families():
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        found[family] = outcome(family)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(family, found[family] or "equal", flush=True)
    lines = [f"| {family} | equal |" for family, reason in found.items() if not reason]
    lines += [f"| {f} | refused: {r.replace('|', '/').replace('<', '')} |" for f, r in found.items() if r]
    head = HEAD.format(transformers=version("transformers"), torch=version("torch").partition("+")[0])
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
