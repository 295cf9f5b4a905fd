"""The base before a cluster is up: whole files, the weights that its config asks for, a proof that it trains."""

from __future__ import annotations

from mlora_ray.bases.checkpoint_files import file_mistakes, tensor_mistakes
from mlora_ray.errors import InputError, mistake_in
from mlora_ray.types import BaseSpec


def require_usable(base: BaseSpec) -> None:
    """Raises InputError with what is wrong with its files, or why a base of this architecture is refused."""
    if found := file_mistakes(base.name, base.path) or tensor_mistakes(base.name, base.path):
        raise InputError(found)
    from mlora_ray.engine.proof_cache import unfitness

    if reason := unfitness(base):
        raise mistake_in(base.path, "base", base.name, f"an architecture that trains exactly here: {reason}")
