"""`stop`: a service ends, its jobs do not: they are saved and wait in its database and storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlora_ray.actors.connect import find_service, on_cluster
from mlora_ray.display.console import print_json, say
from mlora_ray.display.numbers import count
from mlora_ray.errors import MloraError
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED
from mlora_ray.types.status import JobStatus

if TYPE_CHECKING:
    from rich.console import Console


def stop(address: str, service_name: str, is_forced: bool, as_json: bool, out: Console) -> int:
    """Raises MloraError when the jobs cannot be saved; `is_forced` ends the service at their last committed steps."""
    with on_cluster(address):
        service = find_service(service_name)
        say(out, f"saving the jobs of service {service_name!r} …")
        jobs: tuple[JobStatus, ...] = ()
        try:
            jobs = service.save_and_pause(()).jobs
            service.stop()
        except MloraError as error:
            if not is_forced:
                raise MloraError(
                    f"{error}; --force ends the service all the same, nothing committed is lost"
                ) from error
            service.kill()
    paused = [job.name for job in jobs if job.state is JobState.PAUSED]
    if as_json:
        print_json({"service": service_name, "paused": paused})
    else:
        waiting = f"{count(len(paused), 'job')} PAUSED in its storage" if paused else "no job waits"
        say(out, f"service {service_name!r} has ended: {waiting}")
    return EXIT_SUCCEEDED
