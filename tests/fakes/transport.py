"""The transport to hosts of this process."""

from __future__ import annotations

from collections.abc import Sequence

from mlora_ray.control.transport import HostGone
from mlora_ray.types import (
    Assignment,
    HostSettings,
)
from tests.fakes.host import FakeHost


class FakeMove:
    """A state that arrives when it is asked for the second time."""

    def __init__(self, source: FakeHost, target: FakeHost, assignment: Assignment, old_epoch: int) -> None:
        self.source, self.target, self.assignment, self.old_epoch = source, target, assignment, old_epoch
        self.num_asked = 0

    def outcome(self) -> str | None:
        self.num_asked += 1
        if self.num_asked < 2:
            return None
        try:
            self.target.receive(self.assignment, self.source.release_state(self.assignment.spec.name, self.old_epoch))
        except HostGone as error:
            return str(error)
        return ""


class FakeTransport:
    """Hosts in this process."""

    def __init__(self) -> None:
        self.launched: list[FakeHost] = []
        self.leaving: dict[str, float] = {}
        self.requested: list[str] = []
        self.prepare = lambda host: None  # a test's say in every new host

    def launch(self, settings: HostSettings) -> FakeHost:
        host = FakeHost(settings)
        self.prepare(host)
        self.launched.append(host)
        return host

    def adopt(self, actor_name: str) -> FakeHost:
        found = [h for h in self.launched if h.settings.actor_name == actor_name]
        if not found:
            raise HostGone("no such actor")
        return found[0]

    def wait(self, lines: Sequence[FakeHost], timeout_s: float) -> None:
        assert timeout_s < 10

    def move(self, source: FakeHost, target: FakeHost, assignment: Assignment, old_epoch: int) -> FakeMove:
        return FakeMove(source, target, assignment, old_epoch)

    def draining(self) -> dict[str, float]:
        return self.leaving

    def request(self, wanted: Sequence[HostSettings]) -> None:
        self.requested = [s.id for s in wanted]

    @property
    def living(self) -> list[FakeHost]:
        return [h for h in self.launched if not h.is_dead and not h.stopped]
