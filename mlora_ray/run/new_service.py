"""What a service that is not running yet is started with."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlora_ray.config.cluster_settings import STORAGE_VARIABLE, read_settings
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.errors import command_line_mistake
from mlora_ray.types import HostType
from mlora_ray.types.storage_layout import StorageLayout

ITS_OWN_DATABASE = "sqlite://"
RAY_COPY = "_ray_pkg_"  # starts the folder of Ray's copy of a working directory: it is removed after the job


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which service, and what it is started with if it is not running. Empty and 0 mean: choose."""

    service: str = ""
    storage: str = ""
    storage_option: str = "--storage"
    settings_path: str = ""
    policy: str = ""
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of the host type that is chosen
    device: str = ""
    threads: int = 0


def asked_settings(target: Target, *, is_running: bool) -> ServiceSettings:
    """The settings file and the environment, and over them what the command line says. Raises InputError.

    The database of a service that is running is its own affair: who submits to it need not know it.
    """
    storage = storage_uri(target.storage, target.storage_option)
    given = {"name": target.service, "storage": storage, "policy": target.policy}
    given |= {"database": ITS_OWN_DATABASE} if is_running else {}
    settings = read_settings(target.settings_path, None, **{name: value for name, value in given.items() if value})
    if RAY_COPY in settings.storage:
        allowed = "an absolute path or a URL: this process runs in Ray's copy of the working directory"
        raise command_line_mistake(target.storage_option, target.storage or settings.storage, allowed)
    return settings


def settings_for(target: Target, nodes: Sequence[Mapping[str, Any]]) -> ServiceSettings:
    """Those of a service that is to be started; without a settings file its hosts are what the cluster has room for."""
    asked = asked_settings(target, is_running=False)
    if not asked.storage:
        allowed = f"a directory that every node mounts, or a URL such as s3://bucket/runs; also ${STORAGE_VARIABLE}"
        raise command_line_mistake(target.storage_option, "", f"{allowed}, or `storage:` in the --settings file")
    if target.settings_path:
        return asked
    types = host_types_of(nodes, device=target.device, threads=target.threads, **target.limits)
    autoscale = dataclasses.replace(asked.autoscale, max_hosts=sum(t.max_hosts for t in types))
    return dataclasses.replace(asked, host_types=types, autoscale=autoscale)


def check_writable(storage: str, option: str) -> None:
    """Before minutes go into reading rows. Raises InputError for a directory in which nothing can be written."""
    if "://" in storage:
        return
    ours = Path(StorageLayout(storage).folder)
    try:
        ours.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=ours):
            pass
    except OSError as error:
        raise command_line_mistake(option, storage, f"a directory that can be written: {error.strerror}") from error


def storage_uri(text: str, option: str) -> str:
    """An absolute path or an fsspec URL, without a slash at the end. Raises InputError."""
    import fsspec

    if not text:
        return ""
    if "://" not in text or text.startswith("file://"):
        return str(Path(text.removeprefix("file://")).expanduser().absolute())
    try:
        fsspec.core.url_to_fs(text)
    except (ValueError, ImportError, OSError) as error:
        raise command_line_mistake(option, text, f"a URL that fsspec opens here: {error}") from error
    return text.rstrip("/")


def host_types_of(
    nodes: Sequence[Mapping[str, Any]], *, device: str = "", threads: int = 0, **limits: int
) -> tuple[HostType, ...]:
    """One host on each GPU of the cluster; without any, one on each node that has CPUs, all with the same threads.

    `nodes` are `ray.nodes()`; `limits` are fields of a HostType. Threads decide the bits, so the smallest node decides
    the threads.
    """
    resources = [node.get("Resources", {}) for node in nodes if node.get("Alive")]
    num_gpus = sum(int(held.get("GPU", 0)) for held in resources)
    cores = [int(held["CPU"]) for held in resources if held.get("CPU", 0) >= 1]
    if device == "cuda" or (num_gpus and not device):
        gpus = HostType(name="cuda", device="cuda", num_gpus=1.0, max_hosts=max(1, num_gpus), threads=threads or 1)
        return (dataclasses.replace(gpus, **limits),)  # type: ignore[arg-type]
    threads = threads or min(cores, default=1)
    most = max(1, sum(core // threads for core in cores))
    cpus = HostType(name="cpu", num_cpus=float(threads), max_hosts=most, threads=threads)
    return (dataclasses.replace(cpus, **limits),)  # type: ignore[arg-type]
