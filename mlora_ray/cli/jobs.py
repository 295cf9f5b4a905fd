"""`status`, `pause`, `resume` and `cancel`: jobs of a running service."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from mlora_ray.actors.connect import find_service, on_cluster
from mlora_ray.display.console import print_json, say
from mlora_ray.display.progress_view import ProgressView
from mlora_ray.display.status_table import print_status, status_json
from mlora_ray.errors import InputError, command_mistake
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_SUCCEEDED
from mlora_ray.types.status import RunStatus

if TYPE_CHECKING:
    from rich.console import Console

    from mlora_ray.actors.client import Service

POLL_S = 0.5
FINAL = tuple(state for state in JobState if state.is_final)


def show_status(
    names: Sequence[str], address: str, service_name: str, is_watching: bool, as_json: bool, out: Console
) -> int:
    """The jobs of these names, or all of them."""
    with on_cluster(address):
        service = find_service(service_name)
        status = service.status(names)
        if is_watching and not as_json:
            return _watch(service, names, status, out)
        if as_json:
            print_json(status_json(status))
        else:
            print_status(status, out)
    return EXIT_SUCCEEDED


def _watch(service: Service, names: Sequence[str], status: RunStatus, out: Console) -> int:
    """Until every job has ended; Ctrl-C ends the watching only."""
    began_s = time.monotonic()
    with Interrupt() as interrupt, ProgressView(out) as view:
        while True:
            view.update(dataclasses.replace(status, elapsed_s=time.monotonic() - began_s))
            if all(job.state.is_final for job in status.jobs):
                return EXIT_SUCCEEDED
            if interrupt.is_set:
                return EXIT_INTERRUPTED
            time.sleep(POLL_S)
            status = service.status(names)


def pause(names: Sequence[str], address: str, service_name: str, as_json: bool, out: Console) -> int:
    """Stop these jobs at their next step boundary, saved."""
    with on_cluster(address):
        service = find_service(service_name)
        _refuse_ended("pause", service.status(names), "one that has not ended")
        _answer("pausing", "was paused already", service.pause(names), names, as_json, out)
    return EXIT_SUCCEEDED


def resume(names: Sequence[str], address: str, service_name: str, as_json: bool, out: Console) -> int:
    """Queue paused and failed jobs again, from their last committed step."""
    with on_cluster(address):
        service = find_service(service_name)
        ended = (JobState.SUCCEEDED, JobState.CANCELLED)
        _refuse_ended("resume", service.status(names), "one that is paused or failed", ended)
        _answer("queued", "goes on already", service.resume(names), names, as_json, out)
    return EXIT_SUCCEEDED


def cancel(names: Sequence[str], address: str, service_name: str, as_json: bool, out: Console) -> int:
    """End these jobs for good; what they have committed stays in the storage."""
    with on_cluster(address):
        service = find_service(service_name)
        _refuse_ended("cancel", service.status(names), "one that has not ended")
        _answer("cancelled", "had ended already", service.cancel(names), names, as_json, out)
    return EXIT_SUCCEEDED


def _refuse_ended(
    command: str,
    status: RunStatus,
    allowed: str,
    states: Collection[JobState] = FINAL,
) -> None:
    """Raises InputError with a mistake for each job in one of `states`; then nothing is changed."""
    ended = [job for job in status.jobs if job.state in states]
    if ended:
        raise InputError(
            [command_mistake(f"job to {command}", job.name, f"{allowed}; it is {job.state}") for job in ended]
        )


def _answer(done: str, already: str, changed: Sequence[str], names: Sequence[str], as_json: bool, out: Console) -> None:
    unchanged = [name for name in dict.fromkeys(names) if name not in changed]
    if as_json:
        print_json({"changed": list(changed), "unchanged": unchanged})
        return
    if changed:
        say(out, f"{done} {', '.join(changed)}")
    for name in unchanged:
        say(out, f"{name} {already}")
