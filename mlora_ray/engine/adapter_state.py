"""An adapter's state: one flat fp32 buffer (weights, then optimizer moments) and the layout that gives it meaning.

Order inside a row of the buffer: every A matrix, site group by site group with the group's members stacked, then every
B matrix. So A and B are two contiguous parts (LoRA+ gives them different rates), and the optimizer step, a bundle,
paging and a move each touch one buffer (docs/adr/0003).
"""

from __future__ import annotations

import hashlib
import zlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlora_ray.bases.target_modules import select_targets
from mlora_ray.engine.site_groups import SiteGroup
from mlora_ray.errors import JobError
from mlora_ray.types import LoraSpec, TrainSpec

ALIGN = 32  # elements: every view starts on a 64-byte line in fp32 and in bf16
BUFFER_ROWS = {"adamw": 3, "lion": 2, "sgd": 1}  # weights and moments by optimizer


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
    """Lay out an adapter over the base's site groups. Raises JobError when nothing matches or a rank is too large."""
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
        for site, r in mine:
            if r > min(site.num_in, site.num_out):
                raise JobError(f"r={r} is larger than {site.name} ({site.num_out} x {site.num_in}) allows")
        placed.append((group, offset, mine))
        offset = _aligned(offset + sum(r for _, r in mine) * group.num_in)
    num_a = offset
    groups = []
    for group, a_offset, mine in placed:
        members, r_start = [], 0
        for site, r in mine:
            scale = lora.lora_alpha / (r**0.5 if lora.use_rslora else r)
            a_at = a_offset + r_start * group.num_in
            slot = ModuleSlot(site.name, site.num_in, site.num_out, site.out_start, r_start, r, scale, a_at, offset)
            members.append(slot)
            r_start += r
            offset = _aligned(offset + site.num_out * r)
        groups.append(GroupSlot(group.number, group.num_in, r_start, a_offset, tuple(members)))
    return AdapterLayout(tuple(groups), num_a, offset)


class AdapterState:
    """Weights and optimizer moments at an optimizer-step boundary: all that is needed to go on, to the same bits.

    The data cursor and every random number are functions of the job's seed and `step`.
    """

    def __init__(self, layout: AdapterLayout, flat: Tensor, step: int) -> None:
        self.layout, self.flat, self.step = layout, flat, step

    @classmethod
    def fresh(cls, layout: AdapterLayout, lora: LoraSpec, train: TrainSpec, device: str = "cpu") -> AdapterState:
        flat = torch.zeros(BUFFER_ROWS[train.optim], layout.size)
        for slot in layout.modules:
            _init_module(flat[0], slot, lora.init_lora_weights, train.seed)
        return cls(layout, flat.to(device), 0)

    @property
    def weights(self) -> Tensor:
        """fp32 [P], a view."""
        return self.flat[0]

    @property
    def num_bytes(self) -> int:
        return self.flat.numel() * 4

    def to_arrays(self) -> dict[str, np.ndarray]:
        """A complete copy on the CPU: `flat` fp32 [k, P] and `step` int64."""
        return {"flat": self.flat.detach().cpu().numpy().copy(), "step": np.asarray([self.step], np.int64)}

    @classmethod
    def from_arrays(cls, layout: AdapterLayout, arrays: dict[str, np.ndarray], device: str = "cpu") -> AdapterState:
        """Raises JobError when the arrays do not fit the layout."""
        flat = torch.from_numpy(np.array(arrays["flat"], np.float32))
        if flat.ndim != 2 or flat.shape[1] != layout.size:
            raise JobError(f"saved state has shape {tuple(flat.shape)}, this job needs (k, {layout.size})")
        return cls(layout, flat.to(device), int(arrays["step"][0]))

    def sha256(self) -> str:
        """Hash of weights, moments and step."""
        digest = hashlib.sha256(str(self.step).encode())
        digest.update(np.ascontiguousarray(self.flat.detach().cpu().numpy()).data)
        return digest.hexdigest()


def a_view(flat_P: Tensor, slot: ModuleSlot) -> Tensor:
    """A as PEFT shapes it, [r, num_in]."""
    return flat_P[slot.a_offset : slot.a_offset + slot.r * slot.num_in].view(slot.r, slot.num_in)


def b_view(flat_P: Tensor, slot: ModuleSlot) -> Tensor:
    """B as PEFT shapes it, [num_out, r]; it is stored transposed, which makes its gradient's GEMM a third faster."""
    return flat_P[slot.b_offset : slot.b_offset + slot.num_out * slot.r].view(slot.r, slot.num_out).t()


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


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def _init_module(weights_P: Tensor, slot: ModuleSlot, how: str, seed: int) -> None:
    """PEFT's initial values, from a stream of this seed and module alone; B is zero unless `how` says otherwise."""
    rng = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(slot.name.encode())]))
    a, b = a_view(weights_P, slot), b_view(weights_P, slot)
    if how == "gaussian":
        a.copy_(torch.from_numpy(rng.standard_normal(a.shape, np.float32) / slot.r))
    elif how == "orthogonal":
        _init_orthogonal(a, b, slot.r, rng)
    else:
        a.copy_(_uniform(a.shape, slot.num_in, rng))
    if how == "random":
        b.copy_(_uniform(b.shape, slot.r, rng))


def _uniform(shape: torch.Size, fan_in: int, rng: np.random.Generator) -> Tensor:
    """kaiming_uniform with a = sqrt(5): U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5
    return torch.from_numpy(((rng.random(tuple(shape), np.float32) * 2.0 - 1.0) * np.float32(bound)).astype(np.float32))


def _init_orthogonal(a_RD: Tensor, b_OR: Tensor, r: int, rng: np.random.Generator) -> None:
    """A and B from the even and odd rows of one orthogonal matrix, so that B A is zero and neither is (PEFT)."""
    q, _ = np.linalg.qr(rng.standard_normal((r, r)))
    odd, even = q[0::2], q[1::2]
    a_RD.copy_(torch.from_numpy((rng.standard_normal((a_RD.shape[1], r // 2)) @ odd[: r // 2]).T / 10.0))
    b_OR.copy_(torch.from_numpy(rng.standard_normal((b_OR.shape[0], r // 2)) @ even[: r // 2] / 10.0))
