"""One call to every host and its answer: who was heard, who is lost, whose clock is off.

A host that does not answer holds nobody up: it is asked nothing more, and after `host_timeout_s` it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.hosts.managed_host import HostTable, ManagedHost
from mlora_ray.control.transport import HostGone, Transport
from mlora_ray.types import HostReport, Tick

MAX_SKEW_S = 5.0
SILENT = "silent"  # causes of a loss, for metrics
MEMORY = "memory"
PROCESS = "process"


class LostHost(NamedTuple):
    host: ManagedHost
    why: str
    cause: str  # silent | memory | process


class SkewedClock(NamedTuple):
    host: ManagedHost
    detail: str


class Heard(NamedTuple):
    """A host that answers and does not train is in `reports` and `lost`."""

    reports: list[tuple[str, HostReport]]
    lost: list[LostHost]
    skewed: list[SkewedClock]  # told once a host


class Exchange:
    """Over the living hosts; keeps in each when it was asked."""

    def __init__(self, transport: Transport, hosts: HostTable, settings: ServiceSettings, clock: Clock) -> None:
        self._transport, self._hosts, self._settings, self._clock = transport, hosts, settings, clock
        self.clock_skew_s = 0.0  # the furthest of the last answers

    def unasked(self) -> list[ManagedHost]:
        """Hosts that owe no answer."""
        return [host for host in self._hosts.living() if host.asked_s is None]

    def send(self, ticks: Iterable[tuple[ManagedHost, Tick]]) -> list[LostHost]:
        lost = []
        for host, tick in ticks:
            try:
                host.connection.send(tick)
                host.asked_s = self._clock.elapsed_s()
            except HostGone as error:
                lost.append(died(host, str(error)))
        return lost

    def wait(self) -> None:
        """Until all have answered, for half a tick at most."""
        asked = [host.connection for host in self._hosts if host.asked_s is not None]
        self._transport.wait(asked, self._settings.tick_s / 2)

    def hear(self) -> Heard:
        heard = Heard([], [], [])
        self.clock_skew_s = 0.0
        for host in self._hosts.living():
            if host.asked_s is not None:
                self._hear_one(host, host.asked_s, heard)
        return heard

    def _hear_one(self, host: ManagedHost, asked_s: float, heard: Heard) -> None:
        silent_s, stall_s = self._clock.elapsed_s() - asked_s, self._settings.stall_timeout_s
        try:
            report = host.connection.answer()
        except HostGone as error:
            heard.lost.append(died(host, str(error)))
            return
        if report is None:
            if silent_s > self._settings.host_timeout_s:
                why = f"no answer for {self._settings.host_timeout_s:g} s"
                heard.lost.append(LostHost(host, why, SILENT))
            return
        host.asked_s = None
        heard.reports.append((host.name, report))
        heard.skewed.extend(self._check_clock(host, report, silent_s))
        if 0 < stall_s < report.stalled_s:
            why = f"no step ended for {report.stalled_s:.0f} s, though it answers"
            heard.lost.append(LostHost(host, why, SILENT))

    def _check_clock(self, host: ManagedHost, report: HostReport, took_s: float) -> list[SkewedClock]:
        """It answered at some time in the `took_s` seconds until now; only what lies outside them is skew."""
        early_s = report.now_s - self._clock.now_s() if report.now_s else 0.0
        skew_s = early_s if early_s > 0 else min(0.0, early_s + took_s)
        self.clock_skew_s = max(self.clock_skew_s, skew_s, key=abs)
        if abs(skew_s) <= MAX_SKEW_S or host.is_skew_told:
            return []
        host.is_skew_told = True
        detail = f"the clock of node {host.node_ip} is {skew_s:+.1f} s off; nothing depends on it but figures"
        return [SkewedClock(host, detail)]


def died(host: ManagedHost, why: str) -> LostHost:
    """Its process did, of what it says."""
    return LostHost(host, why, MEMORY if "OutOfMemory" in why or "out of memory" in why else PROCESS)
