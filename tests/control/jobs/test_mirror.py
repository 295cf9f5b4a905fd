"""What placement knows again when it begins anew."""

from __future__ import annotations

import math

from tests.conftest import make_step
from tests.fakes.service import Service, specs


def test_losses_are_known_after_a_restart(service: Service) -> None:
    service.submit(specs(2))
    service.run()
    before = [j.loss for j in service.control.status().jobs]
    service.restart()
    assert [j.loss for j in service.control.status().jobs] == [make_step("x", 10).loss] * 2
    assert not any(math.isnan(loss) for loss in before)
