"""Starting a host: check what it must reach, load its base, say what it is. Never imports ray."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from mlora_ray.bases.resolve import num_parameters, resolve_base
from mlora_ray.engine.base_loading import load_base
from mlora_ray.engine.engine import Engine
from mlora_ray.engine.memory_budget import detect_limit
from mlora_ray.engine.numerics import machine_facts, numerics_of
from mlora_ray.errors import InputError, MloraError, StorageError
from mlora_ray.host.runtime import HostRuntime
from mlora_ray.store.bundles import delete_bundle
from mlora_ray.store.files import read_file, write_file
from mlora_ray.types import BaseSpec, HostInfo, HostSettings


def start_hosting(settings: HostSettings, node_id: str = "", node_ip: str = "") -> tuple[HostRuntime, HostInfo]:
    """Raises MloraError naming the node and what it lacks: the storage, the base, the memory."""
    _check_storage(settings, node_ip)
    spec = _base_here(settings.base, node_ip)
    _check_memory(spec, settings, node_ip)
    base = load_base(spec, settings.device, settings.threads)
    try:
        engine = Engine(
            base,
            memory_limit_bytes=settings.memory_limit_bytes,
            adapter_memory_bytes=settings.adapter_memory_bytes,
            token_budget=settings.token_budget,
            page_dir=str(_page_dir(settings)),
            memory=settings.memory,
        )
    except MloraError as error:
        raise MloraError(f"node {node_ip or 'this one'}: {error}") from error
    facts, budget = machine_facts(base.device.type), engine.budget
    info = HostInfo(
        id=settings.id,
        base=settings.base.id,
        base_sha256=base.sha256,
        base_files_sha256=base.files_sha256,
        device_type=base.device.type,
        pid=os.getpid(),
        memory_limit_bytes=budget.limit_bytes,
        base_bytes=budget.base_bytes,
        activation_bytes=budget.activation_bytes,
        adapter_bytes=budget.adapter_bytes,
        token_budget=budget.token_budget,
        summary=budget.describe(),
        facts=tuple(facts.items()),
        numerics=numerics_of(facts, settings.threads),
        node_id=node_id,
        node_ip=node_ip,
    )
    return HostRuntime(settings, engine), info


def _check_storage(settings: HostSettings, node: str) -> None:
    if not settings.probe_uri:
        return
    try:
        read_file(settings.probe_uri)
        own = f"{settings.bundle_root}/probe-{settings.id}"
        write_file(own, b"this host may write here\n")
        delete_bundle(own)
    except StorageError as error:
        raise MloraError(
            f"node {node or 'this one'} cannot reach the storage: {error}; allowed: a directory that every node "
            "mounts at the same path, or a URL that every node may read and write"
        ) from error


def _check_memory(base: BaseSpec, settings: HostSettings, node: str) -> None:
    """Before the weights are loaded: a process that runs out of memory says nothing. The engine plans the rest."""
    limit = settings.memory_limit_bytes or detect_limit(settings.device)
    need = num_parameters(base.path) * (4 if base.dtype == "float32" else 2)
    if need > limit:
        gib = 1 << 30
        raise MloraError(
            f"node {node or 'this one'} has too little memory for base {base.name!r}: its weights are "
            f"{need / gib:.2f} GiB in {base.dtype}, the limit is {limit / gib:.2f} GiB; allowed: a host type with a "
            "larger memory_limit, on a node that has it"
        )


def _base_here(base: BaseSpec, node: str) -> BaseSpec:
    """The base as this node has it: where it was resolved, or by its name."""
    if Path(base.path).is_dir():
        return base
    try:
        return dataclasses.replace(resolve_base(base.name, base.dtype))
    except InputError as error:
        raise MloraError(f"node {node or 'this one'} has no base {base.name!r} at {base.path}: {error}") from error


def _page_dir(settings: HostSettings) -> Path:
    """A directory of this process alone; those that dead processes of this node left are removed."""
    root = Path(settings.page_dir or f"{tempfile.gettempdir()}/mlora-pages-{os.getuid()}")
    for left in root.glob("*-pid*"):
        pid = left.name.rpartition("-pid")[2]
        if not pid.isdigit() or not psutil.pid_exists(int(pid)) or int(pid) == os.getpid():
            shutil.rmtree(left, ignore_errors=True)
    return root / f"{settings.id}-pid{os.getpid()}"
