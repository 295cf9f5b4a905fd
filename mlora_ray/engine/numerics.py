"""What of a machine decides the bits: recorded with every run and job, compared before either goes on.

Threads, dtype and row tile are settings, not facts of a machine: a run takes up those that it began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from mlora_ray.store.adapter_files import cpu_capability, has_native_kernels, library_versions

# Other recorded versions may differ.
DECIDING = ("mlora-ray", "torch", "transformers", "numpy")


class Difference(NamedTuple):
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


def differences(recorded: Mapping[str, str], here: Mapping[str, str]) -> list[Difference]:
    """Every recorded fact that is another one here, in the recorded order."""
    return [Difference(name, then, here.get(name, "")) for name, then in recorded.items() if here.get(name, "") != then]


def numerics_of(facts: Mapping[str, str], threads: int) -> str:
    """A short hash: hosts of equal numerics compute equal bits."""
    said = "\n".join([*(f"{name}={facts[name]}" for name in sorted(facts)), f"threads={threads}"])
    return hashlib.sha256(said.encode()).hexdigest()[:16]
