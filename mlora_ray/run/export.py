"""A trained adapter out of the storage, its hash checked, as a folder that PEFT loads."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlora_ray.errors import StorageError, command_line_mistake
from mlora_ray.store.bundles import read_bundle
from mlora_ray.store.files import read_file, write_file
from mlora_ray.types import BaseSpec, JobState
from mlora_ray.types.records import JobRecord

if TYPE_CHECKING:
    import numpy as np

    from mlora_ray.actors.client import Service
    from mlora_ray.engine.site_groups import SiteGroup


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


BESIDE = ("job.json", "eval.json", "metrics.jsonl")  # go along where they are there


def export_job(service: Service, job: str, to: str, is_latest: bool = False) -> tuple[JobRecord, str]:
    """The job's record, and the hash of what lies at `to` now. With `is_latest` also of a job that has not ended.

    Raises InputError for an unknown job, one that has nothing to export, and a `to` that is not free.
    """
    check_free(to)
    service.status((job,))  # an unknown job is a mistake
    (record,) = service.records((job,))
    if record.state is JobState.SUCCEEDED:
        return record, export_finished(record, f"{service.settings().storage}/{job}", to)
    if is_latest:
        return record, export_bundle(record, to)
    latest = f"--latest exports its last committed step, {record.step}"
    last = latest if record.bundle_uri else "nothing is committed yet"
    raise command_line_mistake("job to export", job, f"one that has SUCCEEDED; it is {record.state}; {last}")


def check_free(to: str) -> None:
    """Raises InputError when there is something at `to` already."""
    path = Path(to)
    if "://" in to or not path.exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise command_line_mistake("--to", to, "a new or empty directory, or a URL")


def export_finished(record: JobRecord, folder: str, to: str) -> str:
    """Copy a finished adapter's files; answers its hash. Raises StorageError when it is not the recorded one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from mlora_ray.engine.peft_format import weights_sha256

    held = read_file(f"{folder}/{WEIGHTS}")
    try:
        sha256 = weights_sha256(load(held))
    except (SafetensorError, ValueError) as error:
        raise StorageError(f"{folder}/{WEIGHTS}: not a safetensors file: {error}") from error
    if sha256 != record.weights_sha256:
        raise StorageError(f"{folder}/{WEIGHTS}: its sha256 is {sha256}, the service recorded {record.weights_sha256}")
    write_file(f"{to}/{WEIGHTS}", held)
    write_file(f"{to}/{CONFIG}", read_file(f"{folder}/{CONFIG}"))
    for name in BESIDE:
        with contextlib.suppress(StorageError):  # a job without evaluation rows has no eval.json
            write_file(f"{to}/{name}", read_file(f"{folder}/{name}"))
    return sha256


def export_bundle(record: JobRecord, to: str) -> str:
    """Write the weights of a job's last committed bundle; answers their sha256. Raises InputError, StorageError."""
    from safetensors.numpy import save

    from mlora_ray.engine.peft_format import weights_sha256

    if not record.bundle_uri:
        raise command_line_mistake(
            "job to export", record.spec.name, f"one with a committed bundle; it is {record.state} at step 0"
        )
    arrays, meta = read_bundle(record.bundle_uri)
    tensors, config = peft_files(record, arrays)
    sha256 = weights_sha256(tensors)
    facts = {"job": record.spec.name, "step": record.step, "total_steps": record.spec.total_steps}
    facts |= {
        "state": str(record.state),
        "bundle": record.bundle_uri,
        "epoch": meta.get("epoch"),
        "weights_sha256": sha256,
    }
    write_file(f"{to}/{WEIGHTS}", save(tensors, metadata={"format": "pt"}))
    write_file(f"{to}/{CONFIG}", _json(config))
    write_file(f"{to}/export.json", _json(facts))
    return sha256


def peft_files(record: JobRecord, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and adapter_config.json of a bundle's arrays; only the base's config is read for it."""
    from mlora_ray.engine.adapter_layout import build_layout
    from mlora_ray.engine.adapter_state import AdapterState
    from mlora_ray.engine.peft_format import peft_config, peft_tensors

    base = _base_here(record.spec.base)
    layout = build_layout(record.spec.lora, _site_groups(base.path))
    state = AdapterState.from_arrays(layout, arrays)
    return peft_tensors(state), peft_config(record.spec.lora, layout, base.path)


def _site_groups(base_path: str) -> list[SiteGroup]:
    """By a run without numbers, which takes no memory; a base that cannot do that is loaded."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig, AutoModelForCausalLM

    from mlora_ray.engine.site_groups import find_groups

    config = AutoConfig.from_pretrained(base_path, local_files_only=True, trust_remote_code=False)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return find_groups(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    except RuntimeError:
        stock = AutoModelForCausalLM.from_pretrained(base_path, local_files_only=True, trust_remote_code=False)
        return find_groups(stock)


def _base_here(base: BaseSpec) -> BaseSpec:
    from mlora_ray.bases.resolve import resolve_base

    return (
        base if Path(base.path).is_dir() else dataclasses.replace(resolve_base(base.name, base.dtype), name=base.name)
    )


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, default=list) + "\n").encode()
