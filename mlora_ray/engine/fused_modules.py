"""Modules that take the place of a stock model's own: grouped linears, fused norms and gated MLPs.

Chosen by module class; a class not known here keeps the stock module, which is right and only slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlora_ray.engine.site_groups import SiteGroup
from mlora_ray.kernels import native
from mlora_ray.kernels.grouped import Segment, lora_backward_, lora_forward_
from mlora_ray.kernels.packed_attention import HeadShape, PackedRotaryAttention
from mlora_ray.kernels.rowwise import rms_norm_backward, rms_norm_forward, swiglu_backward, swiglu_forward, tiled_mm

if TYPE_CHECKING:
    from mlora_ray.engine.packed_row import RowContext

RMS_NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "GlmRMSNorm", "Phi3RMSNorm"}
ONE_PLUS_NORMS = {"GemmaRMSNorm", "Gemma2RMSNorm"}
PACKED_ATTENTIONS = {"LlamaAttention", "MistralAttention", "Qwen2Attention", "GemmaAttention"}
GATED_MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "GemmaMLP", "Gemma2MLP"}


class FusedLinears(nn.Module):
    """The linears of one site group: one base GEMM, LoRA per segment, one joined output."""

    def __init__(self, group: SiteGroup, stock: list[nn.Linear], context: RowContext) -> None:
        super().__init__()
        self.group, self.context = group, context
        self.sizes = [site.num_out for site in group.sites]
        self.weight_OD = torch.cat([m.weight.detach() for m in stock]) if len(stock) > 1 else stock[0].weight.detach()
        self.bias_O = _joined_bias(stock)
        self._parts: tuple[Tensor, ...] = ()
        self._source: Tensor | None = None

    def joined(self, x: Tensor) -> Tensor:
        """Outputs of all linears side by side, [..., sum of widths]."""
        segments = self.context.segments_of(self.group)
        anchor = self.context.anchor if segments and self.context.has_backward else None
        return _GroupedLinear.apply(x, anchor, self, segments)

    def output(self, x: Tensor, at: int) -> Tensor:
        """Output of linear `at`. The first one asked computes all; the others are then handed the same tensor."""
        if len(self.sizes) == 1:
            return self.joined(x)
        if at == 0 or self._source is not x:
            self._parts, self._source = self.joined(x).split(self.sizes, dim=-1), x
        out = self._parts[at]
        if at == len(self.sizes) - 1:
            self._parts, self._source = (), None
        return out


class LinearView(nn.Module):
    """Stands where a stock `nn.Linear` stood and answers with its share of the joined output."""

    def __init__(self, fused: FusedLinears, at: int) -> None:
        super().__init__()
        object.__setattr__(self, "fused", fused)  # not registered: its siblings hold it too
        self.at = at
        self.in_features, self.out_features = fused.group.num_in, fused.sizes[at]

    @property
    def weight(self) -> Tensor:
        site = self.fused.group.sites[self.at]
        return self.fused.weight_OD[site.out_start : site.out_start + site.num_out]

    def forward(self, x: Tensor) -> Tensor:
        return self.fused.output(x, self.at)


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, anchor: Tensor | None, fused: FusedLinears, segments: list[Segment]):
        x_TD = x.reshape(-1, x.shape[-1])
        y_TO = tiled_mm(x_TD, fused.weight_OD.t(), fused.context.tile)
        if fused.bias_O is not None:
            y_TO += fused.bias_O
        ctx.h = lora_forward_(y_TO, x_TD, segments)
        ctx.x_TD, ctx.fused, ctx.segments = x_TD if anchor is not None else None, fused, segments
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[override]
        fused, segments = ctx.fused, ctx.segments
        dy_TO = dy.reshape(-1, dy.shape[-1])
        dx_TD = tiled_mm(dy_TO, fused.weight_OD, fused.context.tile) if ctx.needs_input_grad[0] else None
        if segments:
            lora_backward_(dx_TD, dy_TO, ctx.x_TD, ctx.h, segments)
        ctx.h = ctx.x_TD = None
        dx = dx_TD.view(*dy.shape[:-1], -1) if dx_TD is not None else None
        return dx, None, None, None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight_D: Tensor, eps: float, one_plus: bool):
        y, rstd_T1 = rms_norm_forward(x, weight_D, eps, one_plus)
        ctx.save_for_backward(x, rstd_T1, weight_D)
        ctx.one_plus = one_plus
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[override]
        x, rstd_T1, weight_D = ctx.saved_tensors
        return rms_norm_backward(dy, x, rstd_T1, weight_D, ctx.one_plus), None, None, None


class FusedRmsNorm(nn.Module):
    def __init__(self, stock: nn.Module, one_plus: bool) -> None:
        super().__init__()
        self.weight_D = stock.weight.detach()
        self.eps = float(getattr(stock, "variance_epsilon", getattr(stock, "eps", 1e-6)))
        self.one_plus = one_plus

    def forward(self, x: Tensor) -> Tensor:
        return _RmsNorm.apply(x, self.weight_D, self.eps, self.one_plus)


class _SwiGlu(torch.autograd.Function):
    """silu(gate) * up, keeping only its joined input."""

    @staticmethod
    def forward(ctx, gate_up: Tensor):
        ctx.save_for_backward(gate_up)
        return swiglu_forward(gate_up)

    @staticmethod
    def backward(ctx, dh: Tensor):  # type: ignore[override]
        return swiglu_backward(dh, ctx.saved_tensors[0])


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)), where gate and up are the two linears of one site group."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = stock.gate_proj, stock.up_proj, stock.down_proj

    @staticmethod
    def fits(stock: Any) -> bool:
        if type(stock).__name__ not in GATED_MLPS or type(stock.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
            return False
        gate, up = stock.gate_proj, stock.up_proj
        return gate.fused is up.fused and (gate.at, up.at, len(gate.fused.sizes)) == (0, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(_SwiGlu.apply(self.gate_proj.fused.joined(x)))


class PackedAttention(nn.Module):
    """Attention of the Llama family: q, k, v in one site group, rotary over halves, no norm on the heads."""

    def __init__(self, stock: Any, context: RowContext) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (getattr(stock, f"{x}_proj") for x in ("q", "k", "v", "o"))
        self.context = context
        self.width = int(stock.head_dim)
        self.kv_heads = self.k_proj.out_features // self.width
        self.groups = self.q_proj.out_features // self.k_proj.out_features
        self.scale = float(stock.scaling)
        owner = stock.config if type(stock).__name__ == "MistralAttention" else stock  # Mistral asks its config
        self.window = int(getattr(owner, "sliding_window", None) or 0)

    @staticmethod
    def fits(stock: Any) -> bool:
        if type(stock).__name__ not in PACKED_ATTENTIONS:
            return False
        q, k, v = stock.q_proj, stock.k_proj, stock.v_proj
        return q.fused is k.fused is v.fused and (q.at, k.at, v.at, len(q.fused.sizes)) == (0, 1, 2, 3)

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *_args, **_kwargs):
        assert self.context.row is not None
        qkv = self.q_proj.fused.joined(hidden_states)[0]
        cos, sin = (x[0] for x in position_embeddings)
        shape = HeadShape(self.kv_heads, self.groups, self.width, self.scale, self.window)
        out = PackedRotaryAttention.apply(qkv, cos, sin, self.context.row.sequences, shape)
        return self.o_proj(out.unsqueeze(0)), None


def replace_modules(model: nn.Module, groups: list[SiteGroup], context: RowContext) -> None:
    """Put our modules in place of the stock ones, in the model itself. Module paths stay the same."""
    for group in groups:
        stock = [model.get_submodule(site.name) for site in group.sites]
        fused = FusedLinears(group, stock, context)  # type: ignore[arg-type]
        for at, site in enumerate(group.sites):
            model.set_submodule(site.name, LinearView(fused, at))
    for name, module in list(model.named_modules()):
        kind = type(module).__name__
        if kind in RMS_NORMS or kind in ONE_PLUS_NORMS:
            model.set_submodule(name, FusedRmsNorm(module, kind in ONE_PLUS_NORMS))
        elif GatedMlp.fits(module):
            model.set_submodule(name, GatedMlp(module))
        elif native.for_tensor(next(model.parameters())) and PackedAttention.fits(module):
            model.set_submodule(name, PackedAttention(module, context))


def _joined_bias(stock: list[nn.Linear]) -> Tensor | None:
    if all(m.bias is None for m in stock):
        return None
    parts = [m.bias.detach() if m.bias is not None else m.weight.new_zeros(m.out_features) for m in stock]
    return torch.cat(parts)
