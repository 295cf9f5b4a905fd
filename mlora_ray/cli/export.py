"""`export`: an adapter out of the storage, as a folder that PEFT loads; its hash is compared with the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlora_ray.cli.options import AUTO, DEFAULT_SERVICE, AddressOption, JobArgument, JsonLinesOption, ServiceOption
from mlora_ray.cli.output import running_service
from mlora_ray.display.console import console, print_json, say
from mlora_ray.errors import command_line_mistake
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED

if TYPE_CHECKING:
    from mlora_ray.types.records import JobRecord


def export(
    job: JobArgument,
    to: Annotated[str, typer.Option(help="A new directory, or a URL.")],
    latest: Annotated[
        bool, typer.Option("--latest", help="Of a job that has not ended: its last committed step.")
    ] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """Fetch an adapter as a folder that PEFT loads, its hash checked."""
    _check_free(to)
    with running_service(address, service) as running:
        running.status((job,))  # an unknown job is a mistake
        (record,) = running.records((job,))
        storage = running.settings().storage
    sha256 = _fetch(record, storage, to, latest)
    if as_json:
        print_json({"job": job, "to": to, "step": record.step, "weights_sha256": sha256})
    else:
        steps = f"step {record.step:,} of {record.spec.total_steps:,}"
        say(console(False), f"{job}: {steps}, sha256 {sha256[:12]}, in {to}")
    return EXIT_SUCCEEDED


def _fetch(record: JobRecord, storage: str, to: str, is_latest: bool) -> str:
    """The finished adapter; with `is_latest` the last committed one of a job that has not ended. Answers its hash."""
    from mlora_ray.run.export import export_bundle, export_finished

    job = record.spec.name
    if record.state is JobState.SUCCEEDED:
        return export_finished(record, f"{storage}/{job}", to)
    if is_latest:
        return export_bundle(record, to)
    last = (
        f"--latest exports its last committed step, {record.step}" if record.bundle_uri else "nothing is committed yet"
    )
    raise command_line_mistake("export", job, f"a job that has SUCCEEDED; it is {record.state}; {last}")


def _check_free(to: str) -> None:
    """Raises InputError when there is something at `to` already."""
    path = Path(to)
    if "://" in to or not path.exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise command_line_mistake("--to", to, "a new or empty directory, or a URL")
