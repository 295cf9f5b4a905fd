"""The hosts of a run over any transport: start, tick together, replace the dead. Never imports ray.

A `Launch` starts a host process and answers a `Line` to it; tests pass fakes, the placement actor passes
Ray actors.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from mlora_ray.errors import MloraError
from mlora_ray.placement import Placement
from mlora_ray.types import CrossLosses, CrossRequest, HostInfo, HostReport, HostSettings, HostUsage, Tick

MAX_LOSSES = 3  # of hosts in a row without one committed bundle between them

log = logging.getLogger(__name__)


class HostGone(MloraError):
    """A host died, hangs or raised."""


class HostRefused(MloraError):
    """A host is alive but cannot use its base: another one like it could not either."""


class Line(Protocol):
    """A line to one host. Every method raises HostGone, within its timeout."""

    def info(self) -> HostInfo | None:
        """What the host is; None while it still loads. Raises HostRefused too."""
        ...

    def send(self, tick: Tick) -> None: ...

    def answer(self) -> HostReport: ...

    def save_all(self) -> None: ...

    def cross_evaluate(self, requests: list[CrossRequest], max_rows: int) -> CrossLosses: ...

    def usage(self) -> HostUsage: ...

    def stop(self) -> None: ...


Launch = Callable[[HostSettings], Line]


class Hosts:
    """Keeps as many hosts alive as there are settings."""

    def __init__(self, launch: Launch, settings: tuple[HostSettings, ...]) -> None:
        self._launch, self._lines = launch, dict[str, Line]()
        self._settings = {s.id: s for s in settings}
        self._starting: dict[str, Line] = {s.id: launch(s) for s in settings}
        self._losses = 0
        self._commits_seen = 0
        self.infos: dict[str, HostInfo] = {}

    def admit_ready(self, placement: Placement) -> None:
        """Let hosts that have loaded join. Raises HostRefused, and MloraError when hosts only die."""
        for name, line in list(self._starting.items()):
            try:
                info = line.info()
            except HostGone as error:
                self._replace(name, line, placement, str(error))
                continue
            if info is not None:
                self._lines[name] = self._starting.pop(name)
                self.infos[name] = info
                placement.host_joined(info)

    def tick(self, placement: Placement) -> None:
        """One round: tell every host, hear every answer, fence off and replace who does not answer."""
        ticks = placement.plan()
        sent = {name: line for name, line in list(self._lines.items()) if self._told(name, line, ticks, placement)}
        for name, line in sent.items():
            try:
                report = line.answer()
            except HostGone as error:
                self._replace(name, line, placement, str(error))
                continue
            placement.absorb(name, report)

    def _told(self, name: str, line: Line, ticks: Mapping[str, Tick], placement: Placement) -> bool:
        try:
            line.send(ticks.get(name, Tick()))
        except HostGone as error:
            self._replace(name, line, placement, str(error))
            return False
        return True

    def _replace(self, name: str, line: Line, placement: Placement, why: str) -> None:
        self._lines.pop(name, None)
        self._starting.pop(name, None)
        self.infos.pop(name, None)
        line.stop()
        placement.host_lost(name, why)
        self._losses = 1 if placement.commits > self._commits_seen else self._losses + 1
        self._commits_seen = placement.commits
        if self._losses >= MAX_LOSSES:
            raise MloraError(f"{self._losses} hosts were lost with nothing trained between; the last: {why}")
        settings = self._settings.pop(name)
        settings = dataclasses.replace(settings, id=_next_name(name))
        self._settings[settings.id] = settings
        self._starting[settings.id] = self._launch(settings)
        log.warning("replaced host=%s by host=%s", name, settings.id)

    def save_all(self, placement: Placement) -> None:
        """Save every adapter on every host and commit it. A host that fails here loses what is past its bundles."""
        for name, line in list(self._lines.items()):
            try:
                line.save_all()
                line.send(Tick())
                placement.absorb(name, line.answer())
            except HostGone as error:
                log.warning("host=%s could not save: %s", name, error)

    def any_line(self) -> Line:
        """A host that can be asked something. Raises MloraError when there is none."""
        for line in self._lines.values():
            return line
        raise MloraError("no host is alive")

    def usage(self) -> HostUsage:
        """Together: CPU seconds and the largest peak."""
        used = []
        for name, line in self._lines.items():
            try:
                used.append(line.usage())
            except HostGone as error:
                log.warning("host=%s usage unknown: %s", name, error)
        return HostUsage(sum(u.cpu_s for u in used), max((u.peak_bytes for u in used), default=0))

    def stop(self) -> None:
        for line in [*self._lines.values(), *self._starting.values()]:
            line.stop()
        self._lines.clear()
        self._starting.clear()


def _next_name(name: str) -> str:
    """`cpu-0` -> `cpu-0.1` -> `cpu-0.2`: a process is never mistaken for the one it replaces."""
    stem, _, number = name.partition(".")
    return f"{stem}.{int(number or 0) + 1}"
