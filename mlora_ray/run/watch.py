"""Watching jobs of a service until they have ended: progress, and what becomes of its hosts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
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

POLL_S = 0.5
HOSTS_EVERY_S = 2.0
PATIENCE_S, RETRY_S = 300.0, 5.0


def watch(service: Service, names: Sequence[str], interrupt: Interrupt, out: Console) -> RunStatus:
    """Until every job has ended or the interrupt is set; answers the last status.

    Raises MloraError when the service itself has stopped.
    """
    began_s = hosts_at_s = time.monotonic()
    said = set(_patiently(lambda: _host_lines(service, {"gone"}), interrupt, out))  # before us
    with ProgressView(out) as view:
        while True:
            status = _patiently(lambda: service.status(names), interrupt, out)
            lines = [f"warning: {warning}" for warning in status.warnings]
            if time.monotonic() >= hosts_at_s:
                hosts_at_s = time.monotonic() + HOSTS_EVERY_S
                lines += _patiently(lambda: _host_lines(service), interrupt, out)
            for line in lines:
                if line not in said:
                    said.add(line)
                    say(out, line)
            view.update(dataclasses.replace(status, elapsed_s=time.monotonic() - began_s))
            if interrupt.is_set or all(job.state.is_final for job in status.jobs):
                return status
            if status.error:
                again = "`mlora-ray stop --force`, then the same command goes on from what is committed"
                raise MloraError(f"service {service.name!r} has stopped: {status.error}; {again}")
            time.sleep(POLL_S)


def _patiently(ask: Callable[[], T], interrupt: Interrupt, out: Console) -> T:
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
            say(out, f"{error}; asking again")
            time.sleep(RETRY_S)


def _host_lines(service: Service, states: Collection[str] = ()) -> list[str]:
    """A line for each host in one of `states`, or in any."""
    return [f"{host.id}: {host_line(host)}" for host in service.hosts(True) if not states or host.state in states]


def host_line(host: HostStatus) -> str:
    """`alive on node 10.0.0.7`, `gone: why`."""
    where = f" on node {host.node_ip}" if host.node_ip else ""
    why = f": {' '.join(host.detail.split())}" if host.detail else ""
    return f"{host.state}{where}{why}"


def exit_code(status: RunStatus) -> int:
    """3 when a job has ended otherwise than well."""
    is_well = all(job.state is JobState.SUCCEEDED for job in status.jobs)
    return EXIT_SUCCEEDED if is_well else EXIT_SOME_FAILED
