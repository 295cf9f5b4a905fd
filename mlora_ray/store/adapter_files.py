"""The files a finished adapter leaves: PEFT's two, eval.json and job.json. Each is written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from mlora_ray.engine.numerics import cpu_capability, has_native_kernels, library_versions
from mlora_ray.errors import MloraError
from mlora_ray.store.files import write_file
from mlora_ray.types import JobSpec

if TYPE_CHECKING:
    from mlora_ray.engine.adapter_state import AdapterState
    from mlora_ray.engine.base import Base


class EvalLosses(NamedTuple):
    """Mean loss per target token on a job's evaluation rows."""

    base: float
    adapter: float


def write_outputs(out_uri: str, spec: JobSpec, base: Base, state: AdapterState, losses: EvalLosses | None) -> str:
    """Write a finished adapter's files to `out_uri`; answers its `weights_sha256`. Raises StorageError.

    job.json comes last: where it is, the others are.
    """
    from safetensors.numpy import save

    from mlora_ray.engine.peft_format import peft_config, peft_tensors, weights_sha256

    tensors = peft_tensors(state)
    sha256 = weights_sha256(tensors)
    write_file(f"{out_uri}/adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_json(f"{out_uri}/adapter_config.json", peft_config(spec.lora, state.layout, spec.base.path))
    if losses is not None:
        write_json(f"{out_uri}/eval.json", _eval_json(spec, losses))
    write_json(f"{out_uri}/job.json", _job_json(spec, base, sha256))
    return sha256


def write_json(uri: str, value: dict[str, Any]) -> None:
    write_file(uri, (json.dumps(value, indent=1, ensure_ascii=False, default=list) + "\n").encode())


def _eval_json(spec: JobSpec, losses: EvalLosses) -> dict[str, Any]:
    if spec.eval_rows is None:
        raise MloraError(f"{spec.name} has no evaluation rows")

    def entry(loss: float) -> dict[str, float]:
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    return {
        "num_rows": spec.eval_rows.num_rows,
        "num_target_tokens": spec.eval_rows.num_target_tokens,
        "base": entry(losses.base),
        "adapter": entry(losses.adapter),
    }


def _job_json(spec: JobSpec, base: Base, sha256: str) -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else base.device.type
    return {
        "spec": dataclasses.asdict(spec),
        "seeds": {"seed": spec.train.seed},
        "data_sha256": {
            "train": spec.train_rows.sha256,
            "eval": spec.eval_rows.sha256 if spec.eval_rows else None,
        },
        "base_sha256": base.sha256,
        "versions": library_versions(),
        "device": device,
        "threads": torch.get_num_threads(),
        "row_tile": base.context.tile,
        "dtype": str(base.dtype).removeprefix("torch."),
        "cpu_capability": cpu_capability(),
        "native_kernels": has_native_kernels(base.device.type),
        "weights_sha256": sha256,
    }
