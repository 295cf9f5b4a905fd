"""A base: frozen weights in this process, with our modules and attention in place of the stock ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlora_ray.engine.fused_modules import replace_modules
from mlora_ray.engine.packed_row import RowContext
from mlora_ray.engine.site_groups import SiteGroup, find_groups
from mlora_ray.errors import MloraError
from mlora_ray.kernels.attention import SegmentAttention
from mlora_ray.types import BaseSpec

ROW_TILE = 256  # rows of every base GEMM call: 256 reached 72-85% of the best rate, 128 50%, and 512 wastes more tail

_names = itertools.count()


@dataclass(slots=True, kw_only=True)
class Base:
    """One frozen base on one device. `decoder` gives hidden states; the head is applied to target rows only."""

    spec: BaseSpec
    decoder: nn.Module
    head_VD: Tensor
    head_bias_V: Tensor | None
    groups: list[SiteGroup]
    context: RowContext
    config: object
    device: torch.device
    dtype: torch.dtype
    sha256: str  # of its weights
    files_sha256: str  # of config, tokenizer and chat template
    num_bytes: int
    softcap: float = 0.0
    logit_scale: float = 1.0
    position_limit: int = 0


def prepare_base(
    model: nn.Module, spec: BaseSpec, sha256: str = "", tile: int = ROW_TILE, files_sha256: str = ""
) -> Base:
    """Freeze a loaded model and replace its modules in place."""
    device = next(model.parameters()).device
    model.eval().requires_grad_(False)
    groups = find_groups(model)
    if not groups:
        raise MloraError(f"base {spec.name!r} has no torch.nn.Linear that an adapter could change")
    context = RowContext(device, tile)
    replace_modules(model, groups, context)
    name = f"mlora_{next(_names)}"
    _register_attention(name, context)
    model.set_attn_implementation(name)  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config
    base = Base(
        spec=spec,
        decoder=model.base_model,  # type: ignore[arg-type]
        head_VD=head.weight.detach(),
        head_bias_V=None if getattr(head, "bias", None) is None else head.bias.detach(),
        groups=groups,
        context=context,
        config=config,
        device=device,
        dtype=next(model.parameters()).dtype,
        sha256=sha256,
        files_sha256=files_sha256,
        num_bytes=_num_bytes(model, groups),
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
        logit_scale=_logit_scale(config),
        position_limit=int(getattr(config, "max_position_embeddings", 0) or 0),
    )
    return base


def _register_attention(name: str, context: RowContext) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask=None, scaling=None, **kwargs
    ):
        if kwargs.get("s_aux") is not None:
            raise MloraError(f"attention sinks of {type(module).__name__} are not supported")
        assert context.row is not None, "a base runs packed rows only"
        scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
        window = int(kwargs.get("sliding_window") or 0)
        softcap = float(kwargs.get("softcap") or 0.0)
        out = SegmentAttention.apply(query[0], key[0], value[0], context.row.sequences, scale, window, softcap)
        return out.transpose(0, 1).contiguous().unsqueeze(0), None  # contiguous as the stock ones: some take a view

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, lambda *args, **kwargs: None)


def _num_bytes(model: nn.Module, groups: list[SiteGroup]) -> int:
    held = {p.data_ptr(): p.numel() * p.element_size() for p in itertools.chain(model.parameters(), model.buffers())}
    size = next(model.parameters()).element_size()
    return sum(held.values()) + sum(g.num_in * g.num_out * size for g in groups)


def _logit_scale(config: object) -> float:
    """Cohere multiplies its logits by `logit_scale`, Granite divides them by `logits_scaling`."""
    if getattr(config, "logits_scaling", None):
        return 1.0 / float(config.logits_scaling)  # type: ignore[attr-defined]
    return float(getattr(config, "logit_scale", None) or 1.0)
