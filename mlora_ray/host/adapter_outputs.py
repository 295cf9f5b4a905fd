"""What a finished adapter leaves: the engine's tensors and facts, given to the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlora_ray.store.adapter_files import EvalLosses, write_adapter_files
from mlora_ray.types import JobSpec

if TYPE_CHECKING:
    from mlora_ray.engine.adapter_state import AdapterState
    from mlora_ray.engine.base import Base


def write_outputs(out_uri: str, spec: JobSpec, base: Base, state: AdapterState, losses: EvalLosses | None) -> str:
    """Write a finished adapter's files to `out_uri`; answers its `weights_sha256`. Raises StorageError."""
    from mlora_ray.engine.numerics import made_on
    from mlora_ray.engine.peft_format import peft_config, peft_tensors, weights_sha256

    tensors = peft_tensors(state)
    sha256 = weights_sha256(tensors)
    config = peft_config(spec.lora, state.layout, spec.base.path)
    write_adapter_files(out_uri, spec, tensors, config, made_on(base) | {"weights_sha256": sha256}, losses)
    return sha256
