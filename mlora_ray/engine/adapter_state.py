"""An adapter's state: one flat fp32 buffer (weights, then optimizer moments) and the layout that gives it meaning.

Order inside a row of the buffer: every A matrix, site group by site group with the group's members stacked, then every
B matrix. So A and B are two contiguous parts (LoRA+ gives them different rates), and the optimizer step, a bundle,
paging and a move each touch one buffer (docs/adr/0003).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from mlora_ray.engine.adapter_layout import AdapterLayout
from mlora_ray.engine.lora_init import _init_module
from mlora_ray.errors import JobError
from mlora_ray.types import BUFFER_ROWS, LoraSpec, TrainSpec


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
