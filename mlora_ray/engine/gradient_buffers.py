"""Memory of open optimizer steps: taken when a step opens, given back when it ends, within a fixed number of bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from mlora_ray.engine.adapter_layout import AdapterLayout
from mlora_ray.engine.packed_row import Scratch


class ScratchPool:
    """Ledger of gradient buffers and compute copies. At least one step can always be open."""

    def __init__(self, capacity_bytes: int, dtype: torch.dtype) -> None:
        self.capacity_bytes, self._dtype = capacity_bytes, dtype
        self._open: list[Scratch] = []
        self._free: dict[AdapterLayout, list[Scratch]] = {}

    def has_room(self, layout: AdapterLayout) -> bool:
        """Whether a step of such an adapter may open now. Unused buffers of other layouts are dropped for it."""
        if not self._open or self._free.get(layout):
            return True
        room = self.capacity_bytes - self._bytes_of(layout) - sum(self._bytes_of(s.layout) for s in self._open)
        unused = [other for other, pool in self._free.items() for _ in pool]
        while unused and sum(map(self._bytes_of, unused)) > room:
            self._free[unused.pop()].pop()
        return room >= 0

    def take(self, layout: AdapterLayout, weights_P: Tensor) -> Scratch:
        """Compute copy of the fp32 weights (in fp32 the weights themselves) and a gradient buffer."""
        pool = self._free.get(layout, [])
        scratch = pool.pop() if pool else None
        if self._dtype == torch.float32:
            grad = scratch.grad_P if scratch else torch.zeros_like(weights_P)
            scratch = Scratch(layout, weights_P, grad)
        elif scratch is None:
            scratch = Scratch(layout, weights_P.to(self._dtype), torch.zeros_like(weights_P))
        else:
            scratch.weights_P.copy_(weights_P)
        self._open.append(scratch)
        return scratch

    def give_back(self, scratch: Scratch) -> None:
        self._open.remove(scratch)
        if self._dtype == torch.float32:
            scratch = Scratch(scratch.layout, scratch.weights_P.new_empty(0), scratch.grad_P)
        self._free.setdefault(scratch.layout, []).append(scratch)

    @property
    def is_in_use(self) -> bool:
        return bool(self._open)

    def shrink(self) -> None:
        """Memory is short: keep no unused buffer, and let steps of half as many bytes be open at a time."""
        self._free.clear()
        self.capacity_bytes //= 2

    def _bytes_of(self, layout: AdapterLayout) -> int:
        return open_step_bytes(layout, self._dtype)


def open_step_bytes(layout: AdapterLayout, dtype: torch.dtype) -> int:
    """An open step of such an adapter: fp32 gradients, and weights in the compute dtype where it is another one."""
    return layout.size * (4 if dtype == torch.float32 else 4 + dtype.itemsize)
