"""The files a finished adapter leaves: PEFT's two, eval.json and job.json. Each is written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mlora_ray.errors import MloraError
from mlora_ray.store.files import write_file
from mlora_ray.types import JobSpec

if TYPE_CHECKING:
    import numpy as np


class EvalLosses(NamedTuple):
    """Mean loss per target token on a job's evaluation rows."""

    base: float
    adapter: float


def write_adapter_files(
    out_uri: str,
    spec: JobSpec,
    tensors: Mapping[str, np.ndarray],
    adapter_config: Mapping[str, Any],
    made_on: Mapping[str, Any],
    losses: EvalLosses | None,
) -> None:
    """Write a finished adapter's files to `out_uri`. Raises StorageError.

    `made_on` is what job.json says beyond the spec: base, versions, device, hash. job.json comes last: where it is,
    the others are.
    """
    from safetensors.numpy import save

    write_file(f"{out_uri}/adapter_model.safetensors", save(dict(tensors), metadata={"format": "pt"}))
    write_json(f"{out_uri}/adapter_config.json", adapter_config)
    if losses is not None:
        write_json(f"{out_uri}/eval.json", _eval_json(spec, losses))
    write_json(f"{out_uri}/job.json", _job_json(spec, made_on))


def write_json(uri: str, value: Mapping[str, Any]) -> None:
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


def _job_json(spec: JobSpec, made_on: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "spec": dataclasses.asdict(spec),
        "seeds": {"seed": spec.train.seed},
        "data_sha256": {
            "train": spec.train_rows.sha256,
            "eval": spec.eval_rows.sha256 if spec.eval_rows else None,
        },
        **made_on,
    }
