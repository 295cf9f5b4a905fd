"""`stop`: a service ends, its jobs do not: they are saved and wait in its database and storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlora_ray.cli.options import AUTO, DEFAULT_SERVICE, AddressOption, JsonLinesOption, ServiceOption
from mlora_ray.cli.output import running_service
from mlora_ray.display.console import console, print_json, say
from mlora_ray.display.numbers import count
from mlora_ray.errors import MloraError
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED

if TYPE_CHECKING:
    from mlora_ray.actors.client import Service
    from mlora_ray.types.status import JobStatus


def stop(
    force: Annotated[bool, typer.Option("--force", help="Even where the jobs cannot be saved now.")] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """Save every job, leave it PAUSED, and end the service with its hosts. `submit` or `train` goes on."""
    out = console(as_json)
    with running_service(address, service) as running:
        say(out, f"saving the jobs of service {service!r} …")
        jobs = _save_and_stop(running, force)
    paused = [job.name for job in jobs if job.state is JobState.PAUSED]
    if as_json:
        print_json({"service": service, "paused": paused})
    else:
        waiting = f"{count(len(paused), 'job')} PAUSED in its storage" if paused else "no job waits"
        say(out, f"service {service!r} has ended: {waiting}")
    return EXIT_SUCCEEDED


def _save_and_stop(running: Service, is_forced: bool) -> tuple[JobStatus, ...]:
    """Raises MloraError when the jobs cannot be saved; `is_forced` ends the service at their last committed steps."""
    jobs: tuple[JobStatus, ...] = ()
    try:
        jobs = running.save_and_pause(()).jobs
        running.stop()
    except MloraError as error:
        if not is_forced:
            raise MloraError(f"{error}; --force ends the service all the same, nothing committed is lost") from error
        running.kill()
    return jobs
