"""Jobs of a job file to a running service, or to one that is started for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlora_ray.actors.client import Service
from mlora_ray.actors.connect import cluster_nodes, running_service, start_service
from mlora_ray.bases.linear_shapes import state_bytes
from mlora_ray.config.job_file import JobFile
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.display.console import say
from mlora_ray.errors import command_line_mistake
from mlora_ray.prepare.job_specs import prepare
from mlora_ray.run.new_service import Target, asked_settings, check_writable, settings_for
from mlora_ray.types import JobSpec, RowsRef
from mlora_ray.types.service import SubmitRequest

if TYPE_CHECKING:
    from rich.console import Console


def submit_jobs(job_file: JobFile, target: Target, command: str, out: Console) -> tuple[Service, list[JobSpec]]:
    """`prepare_jobs`, and hand them over."""
    service, request = prepare_jobs(job_file, target, command, out)
    service.submit(request)
    return service, list(request.specs)


def prepare_jobs(job_file: JobFile, target: Target, command: str, out: Console) -> tuple[Service, SubmitRequest]:
    """Check and tokenise into the storage, start the service if there is none; answers what to submit to it.

    Jobs that the service has already go on. Raises InputError: a mistake in the job file, no storage, a name that is
    taken by another job, a device that no host type has.
    """
    asked = asked_settings(target, is_running=True)
    service = running_service(asked.name)
    settings = _settings_of(service, asked, target, out) if service else settings_for(target, cluster_nodes())
    check_writable(settings.storage, target.storage_option)
    specs = [placed_anywhere(spec, job_file.path) for spec in prepare(job_file, settings.data_root)]
    service = service or start_service(settings)
    _check_seen_by_both(settings)
    return service, submit_request(specs, command, job_file.path)


def submit_request(specs: Sequence[JobSpec], command: str, job_path: str) -> SubmitRequest:
    sizes = tuple((spec.name, state_bytes(spec)) for spec in specs)
    return SubmitRequest(specs=tuple(specs), state_bytes=sizes, command=command, job_file=job_path)


def _settings_of(service: Service, asked: ServiceSettings, target: Target, out: Console) -> ServiceSettings:
    """Those the service runs with. Raises InputError when another storage was asked for; says what else differs."""
    settings = service.settings()
    if asked.storage and asked.storage != settings.storage:
        allowed = f"{settings.storage}, which service {service.name!r} uses, or none; or another --service"
        raise command_line_mistake(target.storage_option, target.storage or asked.storage, allowed)
    if target.settings_path:
        names = [f.name for f in dataclasses.fields(asked) if f.name != "database_url"]
        differing = [name for name in names if getattr(asked, name) != getattr(settings, name)]
        if differing:
            say(
                out,
                f"service {service.name!r} goes on with its own {', '.join(differing)}; `mlora-ray stop` ends it first",
            )
    return settings


def _check_seen_by_both(settings: ServiceSettings) -> None:
    """The service has written a file into its storage; raises InputError when it is not to be seen from here."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(settings.probe_uri)
        is_seen = files.exists(path)
    except Exception as error:  # of the file system, whose client has errors of its own
        raise command_line_mistake("storage", settings.storage, f"what this process can read: {error}") from error
    if not is_seen:
        allowed = "a storage that this process and the cluster share: the service's files there are not to be seen here"
        raise command_line_mistake("storage", settings.storage, allowed)


def placed_anywhere(spec: JobSpec, job_file: str) -> JobSpec:
    """The spec with its rows named as they lie beside the job file: the same from every copy of that folder."""
    folder = Path(job_file).resolve().parent

    def beside(source: str) -> str:
        return str(Path(source).relative_to(folder)) if Path(source).is_relative_to(folder) else source

    def named(rows: RowsRef) -> RowsRef:
        files = tuple(dataclasses.replace(file, source=beside(file.source)) for file in rows.counts.files)
        source = " + ".join(map(beside, rows.source.split(" + ")))
        return dataclasses.replace(rows, source=source, counts=dataclasses.replace(rows.counts, files=files))

    eval_rows = named(spec.eval_rows) if spec.eval_rows else None
    return dataclasses.replace(spec, train_rows=named(spec.train_rows), eval_rows=eval_rows)
