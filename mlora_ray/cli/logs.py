"""`logs` and `events`: what has happened to one job, or to all, in order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from mlora_ray.cli.options import AUTO, DEFAULT_SERVICE, AddressOption, JobArgument, JsonLinesOption, ServiceOption
from mlora_ray.cli.output import running_service
from mlora_ray.display.console import console, print_json, say
from mlora_ray.display.log_lines import entry_json, event_line, in_order, print_entry
from mlora_ray.errors import command_line_mistake
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_SUCCEEDED

if TYPE_CHECKING:
    from mlora_ray.actors.client import Service

POLL_S = 1.0


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job has ended, or Ctrl-C.")] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """Committed steps of a job, and what happened to it, in order."""
    with running_service(address, service) as running:
        if follow or not as_json:
            return _print_log(running, job, follow, as_json)
        (status,) = running.status((job,)).jobs
        events = running.events(0, job)  # before the steps: those of a commit are there when its event is
        steps = running.steps(job)
    lists = {"steps": [entry_json(s) for s in steps], "events": [entry_json(e) for e in events]}
    print_json({"job": job, "state": str(status.state)} | lists)
    return EXIT_SUCCEEDED


def _print_log(running: Service, job: str, is_following: bool, as_json: bool) -> int:
    """An entry a line. Following ends with the job, or with Ctrl-C."""
    from mlora_ray.run.interrupt import Interrupt

    out, after, step = console(False), 0, 0
    with Interrupt() as interrupt:
        while True:
            (status,) = running.status((job,)).jobs
            events = running.events(after, job)  # before the steps: those of a commit are there when its event is
            steps = running.steps(job, step)
            for entry in in_order(steps, events):
                print_entry(entry, status.total_steps, as_json, out)
            after, step = events[-1].id if events else after, steps[-1].step if steps else step
            if not is_following or (status.state.is_final and not (steps or events)):
                return EXIT_SUCCEEDED
            if interrupt.is_set:
                return EXIT_INTERRUPTED
            time.sleep(POLL_S)


def events(
    follow: Annotated[bool, typer.Option("--follow", help="Until Ctrl-C.")] = False,
    job: Annotated[str, typer.Option(help="Of this job only.")] = "",
    after: Annotated[str, typer.Option(help="Only what came after the event of this number.")] = "0",
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """What has happened: placed, saved, moved, lost, drained, failed."""
    last = parse_after(after)
    with running_service(address, service) as running:
        if job:
            running.status((job,))  # an unknown job is a mistake
        if follow or not as_json:
            return _print_events(running, last, job, follow, as_json)
        found = running.events(last, job)
    print_json({"events": [entry_json(event) for event in found]})
    return EXIT_SUCCEEDED


def _print_events(running: Service, last: int, job: str, is_following: bool, as_json: bool) -> int:
    """An event a line, oldest first, from the one after number `last`. Following ends with Ctrl-C."""
    from mlora_ray.run.interrupt import Interrupt

    out = console(False)
    with Interrupt() as interrupt:
        while True:
            for event in running.events(last, job):
                print_json(entry_json(event)) if as_json else say(out, event_line(event, has_id=True))
                last = event.id
            if not is_following:
                return EXIT_SUCCEEDED
            if interrupt.is_set:
                return EXIT_INTERRUPTED
            time.sleep(POLL_S)


def parse_after(text: str) -> int:
    """Raises InputError."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise command_line_mistake(
            "--after", text, "the number of an event, from 0: the first column of `mlora-ray events`"
        )
    return int(text)
