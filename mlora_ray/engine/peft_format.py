"""An adapter as PEFT writes it: tensors, config, hash."""

from __future__ import annotations

import hashlib
import logging

import numpy as np

from mlora_ray.engine.adapter_layout import AdapterLayout, a_view, b_view
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.types import LoraSpec


def peft_tensors(state: AdapterState) -> dict[str, np.ndarray]:
    """fp32 tensors under the key names of PEFT's `adapter_model.safetensors`."""
    weights = state.weights.detach().cpu()
    out: dict[str, np.ndarray] = {}
    for slot in state.layout.modules:
        out[f"base_model.model.{slot.name}.lora_A.weight"] = a_view(weights, slot).numpy().copy()
        out[f"base_model.model.{slot.name}.lora_B.weight"] = b_view(weights, slot).contiguous().numpy().copy()
    return out


def peft_config(lora: LoraSpec, layout: AdapterLayout, base_path: str) -> dict:
    """`adapter_config.json` as PEFT writes it, with the modules spelled out."""
    # PEFT imports bitsandbytes, which warns on some CPUs that a kernel it would fetch from the Hub is not there.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from peft import LoraConfig

    init: bool | str = {"kaiming": True, "random": False}.get(lora.init_lora_weights, lora.init_lora_weights)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_path,
        inference_mode=True,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        use_rslora=lora.use_rslora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        target_modules=sorted(slot.name for slot in layout.modules),
        init_lora_weights=init,
    ).to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    return config


def weights_sha256(tensors: dict[str, np.ndarray]) -> str:
    """Hash over names, shapes and bytes of the exported tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.data)
    return digest.hexdigest()
