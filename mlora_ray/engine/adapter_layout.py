"""Where each module of an adapter lies in its flat buffers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mlora_ray.bases.target_modules import alpha_of, select_targets
from mlora_ray.engine.site_groups import SiteGroup
from mlora_ray.errors import JobError
from mlora_ray.types import LoraSpec

ALIGN = 32  # elements: every view starts on a 64-byte line in fp32 and in bf16


class ModuleSlot(NamedTuple):
    """One adapted linear: A `[r, num_in]` is at `a_offset` of the flat buffer, B^T `[r, num_out]` at `b_offset`."""

    name: str
    num_in: int
    num_out: int
    out_start: int  # column of the site group's output
    r_start: int  # rank row within the group's stacked A
    r: int
    scale: float
    a_offset: int
    b_offset: int


class GroupSlot(NamedTuple):
    """The adapted members of one site group; their A matrices lie stacked as `[num_ranks, num_in]`."""

    group: int  # index of the site group
    num_in: int
    num_ranks: int
    a_offset: int
    members: tuple[ModuleSlot, ...]


class AdapterLayout(NamedTuple):
    groups: tuple[GroupSlot, ...]
    num_a: int  # elements of the A part, its padding included
    size: int  # elements of one buffer row

    @property
    def modules(self) -> list[ModuleSlot]:
        return [m for g in self.groups for m in g.members]

    @property
    def num_parameters(self) -> int:
        return sum(m.r * (m.num_in + m.num_out) for m in self.modules)


def build_layout(lora: LoraSpec, site_groups: list[SiteGroup]) -> AdapterLayout:
    """Lay out an adapter over the base's site groups. Raises JobError when nothing matches."""
    names = [site.name for group in site_groups for site in group.sites]
    ranks = select_targets(lora, names)
    if not ranks:
        raise JobError(f"target_modules {lora.target_modules!r} match no linear of the base; it has {names[:12]}")
    offset = 0
    placed: list[tuple[SiteGroup, int, list[tuple]]] = []
    for group in site_groups:
        mine = [(site, ranks[site.name]) for site in group.sites if site.name in ranks]
        if not mine:
            continue
        placed.append((group, offset, mine))
        offset = _aligned(offset + sum(r for _, r in mine) * group.num_in)
    num_a = offset
    groups = []
    for group, a_offset, mine in placed:
        members, r_start = [], 0
        for site, r in mine:
            scale = alpha_of(lora, site.name) / (r**0.5 if lora.use_rslora else r)
            a_at = a_offset + r_start * group.num_in
            slot = ModuleSlot(site.name, site.num_in, site.num_out, site.out_start, r_start, r, scale, a_at, offset)
            members.append(slot)
            r_start += r
            offset = _aligned(offset + site.num_out * r)
        groups.append(GroupSlot(group.number, group.num_in, r_start, a_offset, tuple(members)))
    return AdapterLayout(tuple(groups), num_a, offset)


def a_view(flat_P: Tensor, slot: ModuleSlot) -> Tensor:
    """A as PEFT shapes it, [r, num_in]."""
    return flat_P[slot.a_offset : slot.a_offset + slot.r * slot.num_in].view(slot.r, slot.num_in)


def b_view(flat_P: Tensor, slot: ModuleSlot) -> Tensor:
    """B as PEFT shapes it, [num_out, r]; it is stored transposed, which makes its gradient's GEMM a third faster."""
    return flat_P[slot.b_offset : slot.b_offset + slot.num_out * slot.r].view(slot.r, slot.num_out).t()


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN
