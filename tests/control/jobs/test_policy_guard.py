"""A policy that misbehaves."""

from __future__ import annotations

from mlora_ray.types import JobState, Place
from tests.conftest import make_spec
from tests.fakes.scripted import Scripted
from tests.fakes.service import Service, specs


def test_a_policy_that_raises_or_cheats_is_overruled(scripted: Service) -> None:
    scripted.submit(specs(1))
    scripted.tick(3)
    home = scripted.job("job-0").record.host
    Scripted.next = lambda view: [Place(adapter="job-0", host=home, epoch=view.adapters[0].epoch)]
    scripted.tick()
    assert any("already" in e.detail for e in scripted.database.events() if e.kind == "refused")
    for answer in (lambda view: [1 / 0], lambda view: [None], lambda view: 3):
        Scripted.next = answer  # type: ignore[assignment]
        scripted.tick()
    scripted.submit([make_spec("late")])
    Scripted.next = lambda view: [Place(adapter="nobody", host=home, epoch=0)]
    scripted.tick()
    assert scripted.job("late").record.host, "first come, first placed, where the policy misbehaves"
    scripted.run()
    assert set(scripted.states().values()) == {JobState.SUCCEEDED}
