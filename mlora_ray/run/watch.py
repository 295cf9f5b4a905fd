"""Watching jobs of a service until they have ended: progress, and what becomes of its hosts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from mlora_ray.actors.client import Service, ServiceEnded
from mlora_ray.display.console import say
from mlora_ray.display.progress_view import ProgressView
from mlora_ray.errors import InputError, MloraError
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_SOME_FAILED, EXIT_SUCCEEDED
from mlora_ray.types.status import HostStatus, RunStatus

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

POLL_S = 0.4
HOSTS_EVERY_S = 2.0
PATIENCE_S, RETRY_S = 300.0, 5.0


class NotBegun(MloraError):
    """No host could be had for a run of its own: nothing was trained."""


def nothing(_: object) -> None:
    """Who listens to nothing."""


def wait_for_end(
    service: Service,
    names: Sequence[str],
    interrupt: Interrupt,
    on_status: Callable[[RunStatus], None] = nothing,
    on_trouble: Callable[[str], None] = nothing,
) -> RunStatus:
    """Until every job has ended or the interrupt is set; answers the last status.

    Raises MloraError when the service itself has stopped. One of a run alone is the caller's to sum up then, unless
    it never had a host (NotBegun).
    """
    while True:
        status = _patiently(lambda: service.status(names), interrupt, on_trouble)
        on_status(status)
        if interrupt.is_set or all(job.state.is_final for job in status.jobs):
            return status
        if status.error and not service.is_private:
            again = "`mlora-ray stop --force`, then the same command goes on from what is committed"
            raise MloraError(f"service {service.name!r} has stopped: {status.error}; {again}")
        if status.error and not service.infos():
            raise NotBegun(status.error)
        if status.error:
            return status
        time.sleep(POLL_S)


def watch(service: Service, names: Sequence[str], interrupt: Interrupt, out: Console) -> RunStatus:
    """`wait_for_end`, shown: progress, and each warning and each change of a host once."""
    began_s, hosts_at_s, phase = time.monotonic(), 0.0, ""
    tell = partial(say, out)
    said = set(_patiently(lambda: _gone_before(service), interrupt, tell))
    with ProgressView(out) as view:

        def show(status: RunStatus) -> None:
            nonlocal hosts_at_s, phase
            lines = [f"warning: {warning}" for warning in status.warnings]
            if time.monotonic() >= hosts_at_s or status.phase != phase:
                hosts_at_s, phase = time.monotonic() + HOSTS_EVERY_S, status.phase
                lines += _patiently(lambda: _host_lines(service), interrupt, tell)
            for line in lines:
                if line not in said:
                    said.add(line)
                    tell(line)
            view.update(dataclasses.replace(status, elapsed_s=time.monotonic() - began_s))

        return wait_for_end(service, names, interrupt, show, tell)


def _patiently(ask: Callable[[], T], interrupt: Interrupt, on_trouble: Callable[[str], None]) -> T:
    """A service that is busy, or waits for its database, is asked again for a while: the jobs go on meanwhile."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except (InputError, ServiceEnded):
            raise
        except MloraError as error:
            if interrupt.is_set or time.monotonic() > until_s:
                raise
            on_trouble(f"{error}; asking again")
            time.sleep(RETRY_S)


def _host_lines(service: Service) -> Collection[str]:
    """A line for each host: on a shared service where it is, in a run alone what its memory buys."""
    if service.is_private:
        return [f"{info.id}: {info.summary}" for info in service.infos()]
    return [f"{host.id}: {host_line(host)}" for host in service.hosts(True)]


def _gone_before(service: Service) -> Collection[str]:
    """Lines of hosts that were gone before us."""
    return () if service.is_private else [f"{h.id}: {host_line(h)}" for h in service.hosts(True) if h.state == "gone"]


def host_line(host: HostStatus) -> str:
    """`alive on node 10.0.0.7`, `gone: why`."""
    where = f" on node {host.node_ip}" if host.node_ip else ""
    why = f": {' '.join(host.detail.split())}" if host.detail else ""
    return f"{host.state}{where}{why}"


def exit_code(status: RunStatus) -> int:
    """3 when a job has ended otherwise than well."""
    is_well = all(job.state is JobState.SUCCEEDED for job in status.jobs)
    return EXIT_SUCCEEDED if is_well else EXIT_SOME_FAILED
