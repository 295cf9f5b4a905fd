"""Names and shapes of a base's linear modules, from its config alone: no weights are read."""

from __future__ import annotations

import functools
from typing import NamedTuple

from mlora_ray.bases.target_modules import select_targets
from mlora_ray.types import JobSpec, LoraSpec


class BaseShapes(NamedTuple):
    linears: dict[str, tuple[int, int]]  # module path -> (in, out), without the output head
    num_parameters: int
    max_position: int  # longest row the base takes; 0: no limit is known
    hidden_size: int


def is_plain_linear(module: object) -> bool:
    """An `nn.Linear` that computes as `nn.Linear` does; a subclass with a forward of its own (a router) does not."""
    from torch import nn

    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


@functools.lru_cache(maxsize=16)
def base_shapes(base_path: str) -> BaseShapes:
    """Shapes of the base in `base_path`, built on the meta device once per process."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base_path, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    head = base.get_output_embeddings()
    linears = {
        name: (int(module.in_features), int(module.out_features))
        for name, module in base.named_modules()
        if is_plain_linear(module) and module is not head
    }
    num_parameters = sum(p.numel() for p in base.parameters())
    max_position = int(getattr(config, "max_position_embeddings", 0) or 0)
    return BaseShapes(linears, num_parameters, max_position, int(getattr(config, "hidden_size", 0) or 0))


def lora_shapes(base_path: str, lora: LoraSpec) -> dict[str, tuple[int, int, int]]:
    """(in, out, r) of every module that `lora` adapts."""
    linears = base_shapes(base_path).linears
    return {name: (*linears[name], r) for name, r in select_targets(lora, linears).items()}


def num_lora_parameters(base_path: str, lora: LoraSpec) -> int:
    return sum(r * (num_in + num_out) for num_in, num_out, r in lora_shapes(base_path, lora).values())


def state_bytes(spec: JobSpec) -> int:
    """Bytes of the job's whole state: float32 weights and the optimizer's moments of every LoRA parameter."""
    from mlora_ray.types import BUFFER_ROWS

    return 4 * BUFFER_ROWS[spec.train.optim] * num_lora_parameters(spec.base.path, spec.lora)
