"""What a fleet needs of its hosts, over whatever wire: start, find, hear and feed them. Never imports ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mlora_ray.errors import MloraError
from mlora_ray.types import Assignment, CrossLosses, CrossRequest, HostInfo, HostReport, HostSettings, HostUsage, Tick

HOST_PREFIX = "host:"  # of the actor names of hosts; no service is named so


class HostGone(MloraError):
    """A host died, hangs or raised."""


class HostRefused(MloraError):
    """A host is alive but cannot use its base: another one like it could not either."""


class HostConnection(Protocol):
    """A line to one host. Every method raises HostGone; none but `cross_evaluate` waits."""

    def info(self) -> HostInfo | None:
        """What the host is; None while it still loads. Raises HostRefused too."""
        ...

    def is_placed(self) -> bool:
        """Whether it has a node; one that has not joined by then loads its base."""
        ...

    def send(self, tick: Tick) -> None: ...

    def answer(self) -> HostReport | None:
        """To the tick that was sent; None while it has not come."""
        ...

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses: ...

    def usage(self) -> HostUsage: ...

    def stop(self) -> None:
        """End it, dead or alive; returns at once."""
        ...

    def join(self, timeout_s: float) -> None:
        """Wait for its end after `stop`."""
        ...


class StateTransfer(Protocol):
    """A state on its way."""

    def outcome(self) -> str | None:
        """None while it is on its way; then empty, or why it did not arrive."""
        ...


class Transport(Protocol):
    """How hosts are started, found, heard and fed. Its lines are its own kind of `HostConnection`."""

    def launch(self, settings: HostSettings) -> Any: ...

    def adopt(self, actor_name: str) -> Any:
        """A line to a host that a placement before this one launched."""
        ...

    def wait(self, lines: Sequence[Any], timeout_s: float) -> None:
        """Return when all of these have answered, or after `timeout_s`."""
        ...

    def move(self, source: Any, target: Any, assignment: Assignment, old_epoch: int) -> StateTransfer: ...

    def draining(self) -> Mapping[str, float]:
        """Id of each draining node, and when it will be gone (Unix epoch, s)."""
        ...

    def request(self, wanted: Sequence[HostSettings]) -> None:
        """Have nodes for these hosts, and for no others."""
        ...
