"""Sites: the linears of a base that an adapter may change, and which of them read the same input."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlora_ray.bases.linear_shapes import is_plain_linear


class Site(NamedTuple):
    """One linear of the base, columns `[out_start, out_start + num_out)` of its site group's output."""

    name: str  # module path, as PEFT names it
    group: int
    num_in: int
    num_out: int
    out_start: int


class SiteGroup(NamedTuple):
    """Linears that read the same input tensor, in the order they are called (q, k, v; gate, up)."""

    number: int
    num_in: int
    num_out: int
    sites: tuple[Site, ...]


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every plain linear of the model but its output head, by module path."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    named = model.named_modules()
    return {name: m for name, m in named if is_plain_linear(m) and m is not head}


def find_groups(model: nn.Module) -> list[SiteGroup]:
    """Run four tokens through the model and group the linears that were handed the very same tensor."""
    modules = linears(model)
    seen: list[tuple[Tensor, list[str]]] = []  # the tensors are kept alive so that no address is used twice

    def watch(name: str) -> Callable[[nn.Module, tuple], None]:
        def hook(_module: nn.Module, args: tuple) -> None:
            if seen and seen[-1][0] is args[0]:
                seen[-1][1].append(name)
            else:
                seen.append((args[0], [name]))

        return hook

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
    device = next(model.parameters()).device
    with torch.no_grad():
        model(input_ids=torch.arange(4, device=device).unsqueeze(0), use_cache=False)
    for hook in hooks:
        hook.remove()
    groups = []
    for number, (x, names) in enumerate(seen):
        sites, start = [], 0
        for name in names:
            out = modules[name].out_features
            sites.append(Site(name, number, x.shape[-1], out, start))
            start += out
        groups.append(SiteGroup(number, x.shape[-1], start, tuple(sites)))
    return groups
