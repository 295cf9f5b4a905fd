"""What people see of hosts."""

from __future__ import annotations

from tests.fakes.host import FakeHost
from tests.fakes.service import Service, specs


def test_a_job_that_waits_says_why(service: Service) -> None:
    """A host without a node, one that loads, one that died before it."""

    def hold_up(host: FakeHost) -> None:
        host.is_loading = host.is_homeless = True

    service.transport.prepare = hold_up
    service.submit(specs(1))
    service.tick()
    assert service.control.status().jobs[0].note == "host h-0 waits for a node with 1 CPU free"
    for host in service.launched:
        host.is_homeless = False
    assert service.control.status().jobs[0].note == "host h-0 loads its base"
    for host in service.launched:
        host.is_dead = True
    service.tick(2)
    waiting = next(h for h in service.control.hosts() if h.state == "starting")
    assert waiting.detail == (
        "waits for a node with 1 CPU free; the one before it: its process died: killed by the test"
    )
    for host in service.transport.living:
        host.is_loading = False
    service.run()
    assert service.control.status().jobs[0].note == ""
