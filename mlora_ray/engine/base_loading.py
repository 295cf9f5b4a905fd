"""A base from its directory: proven, its weights whole, frozen, our modules in place."""

from __future__ import annotations

import os

import torch

from mlora_ray.bases.checkpoint_files import loading_faults
from mlora_ray.bases.resolve import base_files_sha256, base_sha256
from mlora_ray.engine.base import ROW_TILE, Base, prepare_base
from mlora_ray.engine.proof_cache import require_proof
from mlora_ray.errors import MloraError
from mlora_ray.types import BaseSpec


def load_base(spec: BaseSpec, device: str = "cpu", threads: int | None = None, tile: int = ROW_TILE) -> Base:
    """Load weights from `spec.path`, freeze them and put our modules in. Raises MloraError when they cannot be used."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would break into ours
    # oneDNN keeps 1,024 compiled GEMM shapes; many adapters of several ranks and lengths use more.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    if threads:
        torch.set_num_threads(threads)
    require_proof(spec, device)
    dtype = getattr(torch, spec.dtype)
    model, info = AutoModelForCausalLM.from_pretrained(
        spec.path,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # said with all other faults, below
    )
    if faults := loading_faults(info):
        raise MloraError(f"base {spec.name!r} in {spec.path} is not what its config.json says: {'; '.join(faults)}")
    return prepare_base(model.to(device), spec, base_sha256(spec.path), tile, base_files_sha256(spec.path))
