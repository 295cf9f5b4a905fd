"""`logs` and `events`: what has happened to one job, or to all, in order."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlora_ray.actors.connect import find_service, on_cluster
from mlora_ray.display.console import print_json, say
from mlora_ray.display.numbers import show_loss, show_seconds
from mlora_ray.display.tables import at_time
from mlora_ray.errors import command_line_mistake
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.types import StepReport
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_SUCCEEDED
from mlora_ray.types.records import Event

if TYPE_CHECKING:
    from rich.console import Console

POLL_S = 1.0
STEP_OF_EVENT = re.compile(r"\bstep=(\d+)")  # what a commit's event says: its steps come before it
COMMITS = ("saved", "succeeded", "failed")


def show_logs(job: str, address: str, service_name: str, is_following: bool, as_json: bool, out: Console) -> int:
    """The committed steps of a job among its events. Following ends with the job, or with Ctrl-C."""
    with on_cluster(address):
        service = find_service(service_name)
        (status,) = service.status((job,)).jobs
        events = service.events(0, job)  # before the steps: those of a commit are there when its event is
        steps = service.steps(job)
        if as_json and not is_following:
            held = {"job": job, "state": str(status.state)}
            print_json(held | {"steps": [_plain(s) for s in steps], "events": [_plain(e) for e in events]})
            return EXIT_SUCCEEDED
        with Interrupt() as interrupt:
            after, step = 0, 0
            while True:
                for entry in in_order(steps, events):
                    _print_entry(entry, status.total_steps, as_json, out)
                after, step = _last(events, after), steps[-1].step if steps else step
                if not is_following or (status.state.is_final and not (steps or events)):
                    return EXIT_SUCCEEDED
                if interrupt.is_set:
                    return EXIT_INTERRUPTED
                time.sleep(POLL_S)
                (status,) = service.status((job,)).jobs
                events = service.events(after, job)
                steps = service.steps(job, step)


def show_events(
    after: str, job: str, address: str, service_name: str, is_following: bool, as_json: bool, out: Console
) -> int:
    """The event log, oldest first; only what came after the event of that number."""
    last = parse_after(after)
    with on_cluster(address):
        service = find_service(service_name)
        if job:
            service.status((job,))  # an unknown job is a mistake
        events = service.events(last, job)
        if as_json and not is_following:
            print_json({"events": [_plain(event) for event in events]})
            return EXIT_SUCCEEDED
        with Interrupt() as interrupt:
            while True:
                for event in events:
                    print_json(_plain(event)) if as_json else say(out, event_line(event, has_id=True))
                last = _last(events, last)
                if not is_following:
                    return EXIT_SUCCEEDED
                if interrupt.is_set:
                    return EXIT_INTERRUPTED
                time.sleep(POLL_S)
                events = service.events(last, job)


def parse_after(text: str) -> int:
    """Raises InputError."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise command_line_mistake(
            "--after", text, "the number of an event, from 0: the first column of `mlora-ray events`"
        )
    return int(text)


def in_order(steps: Sequence[StepReport], events: Sequence[Event]) -> Iterator[StepReport | Event]:
    """Steps have no time of their own: they come right before the event of the bundle that committed them."""
    left = list(steps)
    for event in events:
        said = STEP_OF_EVENT.search(event.detail) if event.kind in COMMITS else None
        while said and left and left[0].step <= int(said[1]):
            yield left.pop(0)
        yield event
    yield from left


def step_line(step: StepReport, total_steps: int) -> str:
    parts = [f"step {step.step:,}/{total_steps:,}", f"loss {show_loss(step.loss)}"]
    if step.eval_loss is not None:
        parts.append(f"eval {show_loss(step.eval_loss)}")
    parts += [f"lr {step.learning_rate:.3g}", f"norm {step.grad_norm:.3g}", f"{step.num_tokens:,} tokens"]
    return "  " + " · ".join([*parts, show_seconds(step.seconds)])


def event_line(event: Event, *, has_id: bool = False) -> str:
    """`17  2026-03-14 15:09:26  placed  job  host  epoch=2  detail`, what is empty left out."""
    number = f"{event.id:>5}  " if has_id else ""
    epoch = f"epoch={event.epoch}" if event.epoch else ""
    facts = [event.job if has_id else "", event.host, epoch, " ".join(event.detail.split())]
    return f"{number}{at_time(event.at_s)}  {event.kind:<12}  {'  '.join(f for f in facts if f)}".rstrip()


def _print_entry(entry: StepReport | Event, total_steps: int, as_json: bool, out: Console) -> None:
    if as_json:
        print_json(_plain(entry))
    elif isinstance(entry, Event):
        say(out, event_line(entry))
    else:
        say(out, step_line(entry, total_steps))


def _plain(entry: StepReport | Event) -> dict[str, Any]:
    """With its kind of entry under `type`: event or step."""
    return {"type": "event" if isinstance(entry, Event) else "step"} | dataclasses.asdict(entry)


def _last(events: Sequence[Event], before: int) -> int:
    return events[-1].id if events else before
