"""Jobs of a job file to a running service, or to one that is started for them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlora_ray.actors.client import Service
from mlora_ray.actors.connect import running_service
from mlora_ray.bases.linear_shapes import state_bytes
from mlora_ray.cli.output import mistake, say
from mlora_ray.config.cluster_settings import STORAGE_VARIABLE, read_settings
from mlora_ray.config.job_file import JobFile
from mlora_ray.config.service_settings import OURS, ServiceSettings
from mlora_ray.data.readers import HUB_PREFIX
from mlora_ray.errors import MloraError
from mlora_ray.prepare.job_specs import prepare
from mlora_ray.types import HostType, JobSpec, RowsRef
from mlora_ray.types.service import SubmitRequest

if TYPE_CHECKING:
    from rich.console import Console

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


def submit_jobs(job_file: JobFile, target: Target, command: str, out: Console) -> tuple[Service, list[JobSpec]]:
    """Check and tokenise into the storage, start the service if there is none, hand the jobs over.

    Jobs that the service has already go on. Raises InputError: a mistake in the job file, no storage, a name that is
    taken by another job, a device that no host type has.
    """
    asked = asked_settings(target, is_running=True)
    service = running_service(asked.name)
    settings = _settings_of(service, asked, target, out) if service else settings_for(target, cluster_nodes())
    check_writable(settings.storage, target.storage_option)
    specs = [placed_anywhere(spec, job_file.path) for spec in prepare(job_file, settings.data_root)]
    service = service or _start(settings)
    _check_seen_by_both(settings)
    sizes = tuple((spec.name, state_bytes(spec)) for spec in specs)
    service.submit(SubmitRequest(specs=tuple(specs), state_bytes=sizes, command=command, job_file=job_file.path))
    return service, specs


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
        raise mistake(target.storage_option, target.storage or settings.storage, allowed)
    return settings


def settings_for(target: Target, nodes: Sequence[Mapping[str, Any]]) -> ServiceSettings:
    """Those of a service that is to be started; without a settings file its hosts are what the cluster has room for."""
    asked = asked_settings(target, is_running=False)
    if not asked.storage:
        allowed = f"a directory that every node mounts, or a URL such as s3://bucket/runs; also ${STORAGE_VARIABLE}"
        raise mistake(target.storage_option, "", f"{allowed}, or `storage:` in the --settings file")
    if target.settings_path:
        return asked
    types = host_types_of(nodes, device=target.device, threads=target.threads, **target.limits)
    autoscale = dataclasses.replace(asked.autoscale, max_hosts=sum(t.max_hosts for t in types))
    return dataclasses.replace(asked, host_types=types, autoscale=autoscale)


def _settings_of(service: Service, asked: ServiceSettings, target: Target, out: Console) -> ServiceSettings:
    """Those the service runs with. Raises InputError when another storage was asked for; says what else differs."""
    settings = service.settings()
    if asked.storage and asked.storage != settings.storage:
        allowed = f"{settings.storage}, which service {service.name!r} uses, or none; or another --service"
        raise mistake(target.storage_option, target.storage or asked.storage, allowed)
    if target.settings_path:
        names = [f.name for f in dataclasses.fields(asked) if f.name != "database_url"]
        differing = [name for name in names if getattr(asked, name) != getattr(settings, name)]
        if differing:
            say(
                out,
                f"service {service.name!r} goes on with its own {', '.join(differing)}; `mlora-ray stop` ends it first",
            )
    return settings


def check_writable(storage: str, option: str) -> None:
    """Before minutes go into reading rows. Raises InputError for a directory in which nothing can be written."""
    if "://" in storage:
        return
    ours = Path(storage) / OURS
    try:
        ours.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=ours):
            pass
    except OSError as error:
        raise mistake(option, storage, f"a directory that can be written: {error.strerror}") from error


def _check_seen_by_both(settings: ServiceSettings) -> None:
    """The service has written a file into its storage; raises InputError when it is not to be seen from here."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(settings.probe_uri)
        is_seen = files.exists(path)
    except Exception as error:  # of the file system, whose client has errors of its own
        raise mistake("storage", settings.storage, f"what this process can read: {error}") from error
    if not is_seen:
        allowed = "a storage that this process and the cluster share: the service's files there are not to be seen here"
        raise mistake("storage", settings.storage, allowed)


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
        raise mistake(option, text, f"a URL that fsspec opens here: {error}") from error
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


def cluster_nodes() -> list[dict[str, Any]]:
    import ray

    return list(ray.nodes())


def _start(settings: ServiceSettings) -> Service:
    """Raises MloraError when it cannot open its database or storage; then it is not left behind."""
    from mlora_ray.actors.options import start_placement

    service = Service(start_placement(settings), settings.name)
    try:
        service.settings()
    except MloraError:
        service.kill()
        raise
    return service


def placed_anywhere(spec: JobSpec, job_file: str) -> JobSpec:
    """The spec with its rows named as they lie beside the job file: the same from every copy of that folder."""
    folder = Path(job_file).resolve().parent

    def named(rows: RowsRef) -> RowsRef:
        is_beside = not rows.source.startswith(HUB_PREFIX) and Path(rows.source).is_relative_to(folder)
        return dataclasses.replace(rows, source=str(Path(rows.source).relative_to(folder))) if is_beside else rows

    eval_rows = named(spec.eval_rows) if spec.eval_rows else None
    return dataclasses.replace(spec, train_rows=named(spec.train_rows), eval_rows=eval_rows)
