"""A base's proof, made once and kept in the cache by all that decides it: config, dtype, device, versions."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch

from mlora_ray.bases.embedded import cache_dir
from mlora_ray.engine.base_proof import prove
from mlora_ray.engine.numerics import machine_facts
from mlora_ray.errors import MloraError
from mlora_ray.types import BaseSpec

ROOT = Path(__file__).resolve().parents[1]
PROVEN_ROOMS = ("engine", "kernels", "bases")  # what a change of could change the answer
NAMES_OF_FILES = ("_name_or_path", "transformers_version")


def require_proof(spec: BaseSpec, device: str = "cpu") -> None:
    """Raises MloraError with the reason, in one sentence, where this base would not train as its stock model does."""
    if reason := unfitness(spec, device):
        raise MloraError(f"base {spec.name!r} cannot train here: {reason}")


def unfitness(spec: BaseSpec, device: str = "cpu") -> str:
    """Why the base in `spec.path` cannot train, in one sentence, from the cache or by a proof; empty when it can."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(spec.path, local_files_only=True, trust_remote_code=False)
    kind = torch.device(device).type
    file = cache_dir() / "proofs" / f"{_key(config.to_dict(), spec.dtype, kind)}.json"
    if (known := _read(file)) is not None:
        return known
    reason = prove(config, getattr(torch, spec.dtype), kind)
    _write(file, {"model_type": config.model_type, "reason": reason})
    return reason


def _key(settings: dict, dtype: str, device: str) -> str:
    structure = {name: value for name, value in settings.items() if name not in NAMES_OF_FILES}
    said = [structure, dtype, device, machine_facts(device), _sources()]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:32]


@functools.cache
def _sources() -> str:
    """Our version says too little while we change the engine: the text of what is proven goes into the key."""
    digest = hashlib.sha256()
    for room in PROVEN_ROOMS:
        for path in sorted((ROOT / room).iterdir()):
            if path.suffix in (".py", ".cpp"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> str | None:
    """The reason that was kept; None when there is none, or a file that is not whole."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, kept: dict[str, str]) -> None:
    """Whole or not at all: two processes may prove the same base."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, half = tempfile.mkstemp(dir=file.parent, suffix=".half")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(kept, out)
    os.replace(half, file)
