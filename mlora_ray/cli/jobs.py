"""`status`, `pause`, `resume` and `cancel`: jobs of a running service."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mlora_ray.cli.options import AUTO, DEFAULT_SERVICE, AddressOption, JobsArgument, JsonLinesOption, ServiceOption
from mlora_ray.cli.output import running_service
from mlora_ray.display.console import console, print_json, say
from mlora_ray.display.status_table import print_status, status_json
from mlora_ray.errors import InputError, command_mistake
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_SUCCEEDED

if TYPE_CHECKING:
    from mlora_ray.actors.client import Service
    from mlora_ray.types.status import RunStatus

POLL_S = 0.5
FINAL = tuple(state for state in JobState if state.is_final)


def status(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="[JOB...]", help="Default: all jobs.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Until they have ended, or Ctrl-C.")] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """Where the jobs are: state, steps, loss, host."""
    names = jobs or []
    with running_service(address, service) as running:
        found = running.status(names)
        if watch and not as_json:
            return _watch(running, names, found)
    if as_json:
        print_json(status_json(found))
    else:
        print_status(found, console(False))
    return EXIT_SUCCEEDED


def _watch(running: Service, names: Sequence[str], found: RunStatus) -> int:
    """Until every job has ended; Ctrl-C ends the watching only."""
    from mlora_ray.display.progress_view import ProgressView
    from mlora_ray.run.interrupt import Interrupt

    began_s = time.monotonic()
    with Interrupt() as interrupt, ProgressView(console(False)) as view:
        while True:
            view.update(dataclasses.replace(found, elapsed_s=time.monotonic() - began_s))
            if all(job.state.is_final for job in found.jobs):
                return EXIT_SUCCEEDED
            if interrupt.is_set:
                return EXIT_INTERRUPTED
            time.sleep(POLL_S)
            found = running.status(names)


def pause(
    jobs: JobsArgument,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """Save jobs at their next step and let them rest."""
    with running_service(address, service) as running:
        _refuse_ended("pause", running.status(jobs), "one that has not ended")
        changed = running.pause(jobs)
    return _answer("pausing", "was paused already", changed, jobs, as_json)


def resume(
    jobs: JobsArgument,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """Let paused and failed jobs go on from their last committed step."""
    with running_service(address, service) as running:
        ended = (JobState.SUCCEEDED, JobState.CANCELLED)
        _refuse_ended("resume", running.status(jobs), "one that is paused or failed", ended)
        changed = running.resume(jobs)
    return _answer("queued", "goes on already", changed, jobs, as_json)


def cancel(
    jobs: JobsArgument,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """End jobs for good. What they have committed stays in the storage."""
    with running_service(address, service) as running:
        _refuse_ended("cancel", running.status(jobs), "one that has not ended")
        changed = running.cancel(jobs)
    return _answer("cancelled", "had ended already", changed, jobs, as_json)


def _refuse_ended(command: str, found: RunStatus, allowed: str, states: Collection[JobState] = FINAL) -> None:
    """Raises InputError with a mistake for each job in one of `states`; then nothing is changed."""
    ended = [job for job in found.jobs if job.state in states]
    if ended:
        raise InputError(
            [command_mistake(f"job to {command}", job.name, f"{allowed}; it is {job.state}") for job in ended]
        )


def _answer(done: str, already: str, changed: Sequence[str], jobs: Sequence[str], as_json: bool) -> int:
    unchanged = [name for name in dict.fromkeys(jobs) if name not in changed]
    if as_json:
        print_json({"changed": list(changed), "unchanged": unchanged})
        return EXIT_SUCCEEDED
    out = console(False)
    if changed:
        say(out, f"{done} {', '.join(changed)}")
    for name in unchanged:
        say(out, f"{name} {already}")
    return EXIT_SUCCEEDED
