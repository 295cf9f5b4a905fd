"""The same adapter in PEFT on a stock model: the truth that the engine is compared to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mlora_ray.bases.target_modules import is_regex
from mlora_ray.data.tokenized_rows import Rows
from mlora_ray.engine.adapter_layout import a_view, b_view
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import Base
from mlora_ray.engine.executor import run_row
from mlora_ray.engine.packed_row import Request, Scratch
from mlora_ray.engine.peft_format import peft_tensors
from mlora_ray.types import LoraSpec


def peft_model(stock: nn.Module, lora: LoraSpec, state: AdapterState, fp32: bool = False) -> Any:
    """A copy of `stock` with a PEFT adapter that holds the weights of `state`, configured from the same fields.

    `fp32`: its weights are fp32 masters whatever the base's dtype, as PEFT does by default.
    """
    import peft

    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        use_rslora=lora.use_rslora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        target_modules=as_peft(lora.target_modules),
        exclude_modules=as_peft(lora.exclude_modules) or None,
        layers_to_transform=list(lora.layers_to_transform) or None,
        layers_pattern=list(lora.layers_pattern) or None,
    )
    model = peft.get_peft_model(copy.deepcopy(stock), config, autocast_adapter_dtype=fp32)
    tensors = {name: torch.from_numpy(array) for name, array in peft_tensors(state).items()}
    expected = set(peft.get_peft_model_state_dict(model))
    assert expected == set(tensors), expected ^ set(tensors)
    peft.set_peft_model_state_dict(model, tensors)
    return model


def as_peft(names: tuple[str, ...]) -> str | list[str]:
    """Names or one regular expression, in the form of `LoraConfig`."""
    return names[0] if names == ("all-linear",) or is_regex(names) else list(names)


def solo_loss(model: Any, rows: Rows, picked: tuple[int, ...]) -> Tensor:
    """Mean loss over the targets of the picked rows, each row in a forward of its own."""
    total, count = torch.zeros(()), 0
    for i in picked:
        part = slice(int(rows.offsets[i]), int(rows.offsets[i + 1]))
        ids = torch.from_numpy(rows.tokens[part].astype("int64"))
        labels = ids.masked_fill(~torch.from_numpy(rows.is_target[part]), -100)
        number = int((labels[1:] != -100).sum())
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        total = total + nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
        count += number
    return total / count


def solo_grads(model: Any, state: AdapterState) -> dict[str, Tensor]:
    """Gradients of every adapted module, A and B, after a backward."""
    out = {}
    for slot in state.layout.modules:
        module = model.get_submodule(f"base_model.model.{slot.name}")
        out[f"{slot.name}.A"] = module.lora_A["default"].weight.grad.float()
        out[f"{slot.name}.B"] = module.lora_B["default"].weight.grad.float()
    return out


def our_loss_and_grads(
    base: Base, state: AdapterState, rows: Rows, nano_batches: list[tuple[int, ...]]
) -> tuple[float, dict[str, Tensor]]:
    """The engine's mean loss and gradients of one step cut into `nano_batches`, all in one packed row."""
    flat = state.weights.to(base.dtype) if base.dtype != torch.float32 else state.weights
    scratch = Scratch(state.layout, flat, torch.zeros(state.layout.size))
    count = int(rows.num_targets()[[i for nano in nano_batches for i in nano]].sum())
    requests = [Request(scratch, rows, nano, 1.0 / count, at == 0) for at, nano in enumerate(nano_batches)]
    results = run_row(base, requests, has_backward=True)
    assert scratch.grad_P is not None
    grads = {}
    for slot in state.layout.modules:
        grads[f"{slot.name}.A"] = a_view(scratch.grad_P, slot)
        grads[f"{slot.name}.B"] = b_view(scratch.grad_P, slot)
    return sum(r.loss_sum for r in results) / count, grads


def relative(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of `expected`."""
    return float((got.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-30))
