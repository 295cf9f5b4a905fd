"""`hosts` and `drain`: the hosts of a running service."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mlora_ray.actors.connect import find_service, on_cluster
from mlora_ray.cli.output import EXIT_SUCCEEDED, mistake, print_json, say
from mlora_ray.display.numbers import count, show_bytes, show_rate, show_seconds
from mlora_ray.display.tables import Column, print_table
from mlora_ray.types.status import HostStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

NODE_CHARACTERS = 8  # of a node id: enough to tell nodes apart, and for `drain`
COLUMNS = (
    Column("host", max_width=20),
    Column("state"),
    Column("base", rank=4, max_width=24),
    Column("node", rank=1),
    Column("address", rank=5),
    Column("jobs", is_number=True),
    Column("tokens/s", rank=3, is_number=True),
    Column("row", rank=7, is_number=True),
    Column("memory", rank=2),
    Column("for", rank=6, is_number=True),
    Column("why"),
)


def show_hosts(address: str, service_name: str, is_gone_included: bool, as_json: bool, out: Console) -> int:
    with on_cluster(address):
        hosts = find_service(service_name).hosts(is_gone_included)
    if as_json:
        print_json({"hosts": [dataclasses.asdict(host) for host in hosts]})
    elif hosts:
        print_table(out, COLUMNS, [host_cells(host) for host in hosts])
        say(out, _whole(hosts))
    else:
        say(out, "no hosts: there is no work, or they are not wanted yet (see `mlora-ray events`)")
    return EXIT_SUCCEEDED


def host_cells(host: HostStatus) -> tuple[str, ...]:
    """One row of `COLUMNS`."""
    limit = f" of {show_bytes(host.memory_limit_bytes)}" if host.memory_limit_bytes else ""
    memory = f"{show_bytes(host.memory_bytes)}{limit}" if host.memory_bytes else ""
    is_loaded = host.state in ("alive", "draining")
    return (
        host.id,
        host.state,
        host.base,
        host.node_id[:NODE_CHARACTERS],
        host.node_ip,
        f"{host.num_jobs}",
        show_rate(host.tokens_per_s) if is_loaded else "",
        f"{host.row_tokens:,}" if host.row_tokens else "",
        memory,
        show_seconds(host.alive_s) if host.alive_s else "",
        host.detail,
    )


def _whole(hosts: Sequence[HostStatus]) -> str:
    here = [host for host in hosts if host.state != "gone"]
    rate = show_rate(sum(host.tokens_per_s for host in here))
    spot = sum(host.is_spot for host in here)
    parts = [count(len(here), "host"), count(sum(host.num_jobs for host in here), "job"), f"{rate} tokens/s"]
    return " · ".join([*parts, f"{spot} spot"] if spot else parts)


def drain(target: str, address: str, service_name: str, as_json: bool, out: Console) -> int:
    """Move every adapter off a host, or off all hosts of a node, and let it go."""
    with on_cluster(address):
        service = find_service(service_name)
        hosts = [host for host in service.hosts() if host.state != "gone"]
        if not target or not any(target == host.id or host.node_id.startswith(target) for host in hosts):
            there = ", ".join(f"{host.id} (node {host.node_id[:NODE_CHARACTERS] or 'none yet'})" for host in hosts)
            raise mistake("drain", target, f"a host, or the start of a node id; there are: {there or 'no hosts'}")
        drained = service.drain(target)
    if as_json:
        print_json({"draining": list(drained)})
    else:
        say(out, f"draining {', '.join(drained)}" if drained else f"{target} was draining already")
    return EXIT_SUCCEEDED
