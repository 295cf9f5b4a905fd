"""Steps and events of jobs as lines, and in which order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlora_ray.display.console import print_json, say
from mlora_ray.display.numbers import show_loss, show_seconds
from mlora_ray.display.tables import at_time
from mlora_ray.types import StepReport
from mlora_ray.types.records import Event

if TYPE_CHECKING:
    from rich.console import Console

STEP_OF_EVENT = re.compile(r"\bstep=(\d+)")  # what a commit's event says: its steps come before it
COMMITS = ("saved", "succeeded", "failed")


def in_order(steps: Sequence[StepReport], events: Sequence[Event]) -> Iterator[StepReport | Event]:
    """Steps have no time of their own: they come right before the event of the bundle that committed them."""
    left = list(steps)
    for event in events:
        said = STEP_OF_EVENT.search(event.detail) if event.kind in COMMITS else None
        while said and left and left[0].step <= int(said[1]):
            yield left.pop(0)
        yield event
    yield from left


def print_entry(entry: StepReport | Event, total_steps: int, as_json: bool, out: Console) -> None:
    """One of a job's own log."""
    if as_json:
        print_json(entry_json(entry))
    elif isinstance(entry, Event):
        say(out, event_line(entry))
    else:
        say(out, step_line(entry, total_steps))


def entry_json(entry: StepReport | Event) -> dict[str, Any]:
    """With its kind of entry under `type`: event or step."""
    return {"type": "event" if isinstance(entry, Event) else "step"} | dataclasses.asdict(entry)


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
