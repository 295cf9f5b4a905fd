"""Jobs and hosts as policies see them."""

from __future__ import annotations

import dataclasses

from tests.conftest import make_spec
from tests.fakes.service import Service


def test_views_are_plain_and_complete(service: Service) -> None:
    service.submit([dataclasses.replace(make_spec("job-0"), tenant="t", priority=2)], [("job-0", 5 << 20)])
    service.tick(5)
    view = service.placement.view()
    assert view.now_s == service.clock.now_s()
    one = view.adapters[0]
    assert (one.id, one.tenant, one.priority, one.tokens_total, one.state_bytes) == ("job-0", "t", 2, 80, 5 << 20)
    assert one.tokens_done == 24
    assert one.numerics == view.hosts[0].numerics == "n"
    assert {h.id: h.group for h in view.hosts} == {"h-0": ("job-0",), "h-1": ()}
