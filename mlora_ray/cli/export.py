"""`export`: an adapter out of the storage, as a folder that PEFT loads; its hash is compared with the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlora_ray.cli.options import AUTO, DEFAULT_SERVICE, AddressOption, JobArgument, JsonLinesOption, ServiceOption
from mlora_ray.cli.output import running_service
from mlora_ray.display.console import console, print_json, say
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED

if TYPE_CHECKING:
    pass


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
    from mlora_ray.run.export import export_job

    with running_service(address, service) as running:
        record, sha256 = export_job(running, job, to, latest)
    if as_json:
        print_json({"job": job, "to": to, "step": record.step, "weights_sha256": sha256})
    else:
        steps = f"step {record.step:,} of {record.spec.total_steps:,}"
        say(console(False), f"{job}: {steps}, sha256 {sha256[:12]}, in {to}")
    return EXIT_SUCCEEDED
