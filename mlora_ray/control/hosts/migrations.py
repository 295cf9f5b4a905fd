"""States on their way from host to host: begun, followed, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mlora_ray.control.hosts.managed_host import HostTable
from mlora_ray.control.jobs.moves import Move
from mlora_ray.control.transport import HostGone, StateTransfer, Transport


class EndedMove(NamedTuple):
    job: str
    epoch: int  # at its new host
    why: str = ""  # it has not arrived; empty: it has


class Migrations:
    """Those under way."""

    def __init__(self, transport: Transport, hosts: HostTable) -> None:
        self._transport, self._hosts = transport, hosts
        self._going: list[tuple[Move, StateTransfer]] = []

    @property
    def sources(self) -> set[str]:
        """Hosts that still have the state of a job which is another's now."""
        return {move.source for move, _ in self._going}

    def start(self, moves: Sequence[Move]) -> list[EndedMove]:
        """Answers those that cannot begin."""
        failed = []
        for move in moves:
            source, target = self._hosts.get(move.source), self._hosts.get(move.target)
            if source is None or target is None:
                failed.append(_ended(move, "its host is gone"))
                continue
            try:
                transfer = self._transport.move(source.connection, target.connection, move.assignment, move.old_epoch)
            except HostGone as error:
                failed.append(_ended(move, str(error)))
                continue
            self._going.append((move, transfer))
        return failed

    def follow(self) -> list[EndedMove]:
        """Answers those that have ended since."""
        outcomes = [(move, transfer, transfer.outcome()) for move, transfer in self._going]
        self._going = [(move, transfer) for move, transfer, outcome in outcomes if outcome is None]
        return [_ended(move, outcome) for move, _, outcome in outcomes if outcome is not None]


def _ended(move: Move, why: str) -> EndedMove:
    return EndedMove(move.assignment.spec.name, move.assignment.epoch, why)
