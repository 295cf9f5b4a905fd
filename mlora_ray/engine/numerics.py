"""What of a machine decides the bits: recorded with every run and job, compared before either goes on.

Threads, dtype and row tile are settings, not facts of a machine: a run takes up those that it began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mlora_ray.engine.base import Base

LIBRARIES = ("mlora-ray", "torch", "transformers", "peft", "ray", "safetensors", "numpy")
# Other recorded versions may differ.
DECIDING = ("mlora-ray", "torch", "transformers", "numpy")


# Beyond the vector width: instructions for which a matrix product is summed in another order.
CPU_FEATURES = ("amx_bf16", "amx_fp16", "amx_int8", "avx512_bf16", "avx512_fp16")


class NumericsDifference(NamedTuple):
    """One fact: as it was recorded, and as it is here."""

    name: str
    then: str
    now: str


def machine_facts(device_type: str) -> dict[str, str]:
    """Facts of this machine for training on `device_type` (cpu or cuda), such as `versions.torch: 2.13.0`."""
    import torch

    versions = library_versions()
    facts = {f"versions.{name}": versions[name] for name in DECIDING if name in versions}
    if device_type == "cpu":
        native = str(has_native_kernels("cpu"))
        return facts | {"device": "cpu", "cpu_capability": cpu_capability(), "native_kernels": native}
    return facts | {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}


def recorded_facts(job: Mapping[str, Any]) -> dict[str, str]:
    """The same facts as a job.json has them; one that it lacks is left out."""
    versions = job.get("versions") or {}
    facts = {f"versions.{name}": str(versions[name]) for name in DECIDING if versions.get(name)}
    facts["device"] = str(job.get("device", "cpu"))
    if facts["device"] == "cpu":
        facts |= {name: str(job[name]) for name in ("cpu_capability", "native_kernels") if name in job}
    return facts


def differences(recorded: Mapping[str, str], here: Mapping[str, str]) -> list[NumericsDifference]:
    """Every recorded fact that is another one here, in the recorded order."""
    return [
        NumericsDifference(name, then, here.get(name, ""))
        for name, then in recorded.items()
        if here.get(name, "") != then
    ]


def numerics_of(facts: Mapping[str, str], threads: int) -> str:
    """A short hash: hosts of equal numerics compute equal bits."""
    said = "\n".join([*(f"{name}={facts[name]}" for name in sorted(facts)), f"threads={threads}"])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Installed versions of what decides the bits."""
    return {name: version for name in LIBRARIES if (version := _version(name))}


def cpu_capability() -> str:
    """The vector instructions that torch's CPU kernels choose between, such as `AVX512 amx_bf16 avx512_bf16`."""
    import torch

    has = torch.cpu.get_capabilities()
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(name for name in CPU_FEATURES if has.get(name))])


def has_native_kernels(device_type: str) -> bool:
    """Whether this process trains with the fused CPU kernels."""
    from mlora_ray.kernels.native import library

    return device_type == "cpu" and library() is not None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def made_on(base: Base) -> dict[str, Any]:
    """What job.json records of base, versions and device: everything beside the spec that decides the bits."""
    import torch

    device = torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else base.device.type
    return {
        "base_sha256": base.sha256,
        "base_files_sha256": base.files_sha256,
        "versions": library_versions(),
        "device": device,
        "threads": torch.get_num_threads(),
        "row_tile": base.context.tile,
        "dtype": str(base.dtype).removeprefix("torch."),
        "cpu_capability": cpu_capability(),
        "native_kernels": has_native_kernels(base.device.type),
    }
