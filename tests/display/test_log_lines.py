"""Steps and events of a job as lines, in the order in which they were committed."""

from __future__ import annotations

import dataclasses

from mlora_ray.display.log_lines import entry_json, event_line, in_order, step_line
from mlora_ray.types import StepReport
from mlora_ray.types.records import Event
from tests.conftest import make_step


def test_steps_stand_before_the_bundle_that_committed_them() -> None:
    steps = [make_step("a", number) for number in range(1, 6)]
    events = [
        Event(at_s=1.0, kind="placed", job="a", host="cpu-0", epoch=1, id=1),
        Event(at_s=2.0, kind="saved", job="a", detail="step=2", id=2),
        Event(at_s=3.0, kind="host_lost", host="cpu-0", detail="step=9 of somebody else", id=3),
        Event(at_s=4.0, kind="saved", job="a", detail="step=4", id=4),
    ]
    order = [e.step if isinstance(e, StepReport) else e.kind for e in in_order(steps, events)]
    assert order == ["placed", 1, 2, "saved", "host_lost", 3, 4, "saved", 5]


def test_lines_of_a_log() -> None:
    assert step_line(make_step("a", 2), 40).startswith("  step 2/40 · loss 0.5000 · lr 0.05 · norm 1 · 8 tokens")
    event = Event(at_s=0.0, kind="saved", job="a", host="cpu-0", epoch=2, detail="step=4\nthen", id=17)
    assert event_line(event).endswith("saved         cpu-0  epoch=2  step=4 then")
    assert event_line(event, has_id=True).startswith("   17  ")
    assert "  a  cpu-0  " in event_line(event, has_id=True)


def test_an_entry_as_json_says_what_it_is() -> None:
    assert entry_json(Event(at_s=0.0, kind="saved", job="a", id=17))["type"] == "event"
    assert entry_json(make_step("a", 2)) == {"type": "step"} | dataclasses.asdict(make_step("a", 2))
