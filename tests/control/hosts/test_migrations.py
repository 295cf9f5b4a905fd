"""States on their way when somebody dies."""

from __future__ import annotations

import pytest

from tests.fakes.scripted import move
from tests.fakes.service import Service, specs


@pytest.mark.parametrize("what", ["source dies", "target dies", "both die", "placement dies", "source hangs"])
def test_a_move_that_is_cut_short_goes_on_from_the_bundle(scripted: Service, what: str) -> None:
    scripted.submit(specs(2, steps=30))
    scripted.tick(6)
    source, target = move(scripted, "job-0")
    scripted.tick()
    hosts = {h.settings.id: h for h in scripted.launched}
    if what in ("source dies", "both die"):
        hosts[source].is_dead = True
    if what in ("target dies", "both die"):
        hosts[target].is_dead = True
    if what == "source hangs":
        hosts[source].is_hung = True
    if what == "placement dies":
        scripted.restart()
    scripted.run()
    scripted.check_integrity()
