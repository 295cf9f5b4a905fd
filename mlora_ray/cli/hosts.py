"""`hosts` and `drain`: the hosts of a running service."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mlora_ray.actors.connect import find_service, on_cluster
from mlora_ray.display.console import print_json, say
from mlora_ray.display.host_table import COLUMNS, NODE_CHARACTERS, host_cells, whole_line
from mlora_ray.display.tables import print_table
from mlora_ray.errors import command_line_mistake
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED

if TYPE_CHECKING:
    from rich.console import Console


def show_hosts(address: str, service_name: str, is_gone_included: bool, as_json: bool, out: Console) -> int:
    with on_cluster(address):
        hosts = find_service(service_name).hosts(is_gone_included)
    if as_json:
        print_json({"hosts": [dataclasses.asdict(host) for host in hosts]})
    elif hosts:
        print_table(out, COLUMNS, [host_cells(host) for host in hosts])
        say(out, whole_line(hosts))
    else:
        say(out, "no hosts: there is no work, or they are not wanted yet (see `mlora-ray events`)")
    return EXIT_SUCCEEDED


def drain(target: str, address: str, service_name: str, as_json: bool, out: Console) -> int:
    """Move every adapter off a host, or off all hosts of a node, and let it go."""
    with on_cluster(address):
        service = find_service(service_name)
        hosts = [host for host in service.hosts() if host.state != "gone"]
        if not target or not any(target == host.id or host.node_id.startswith(target) for host in hosts):
            there = ", ".join(f"{host.id} (node {host.node_id[:NODE_CHARACTERS] or 'none yet'})" for host in hosts)
            raise command_line_mistake(
                "what to drain", target, f"a host, or the start of a node id; there are: {there or 'no hosts'}"
            )
        drained = service.drain(target)
    if as_json:
        print_json({"draining": list(drained)})
    else:
        say(out, f"draining {', '.join(drained)}" if drained else f"{target} was draining already")
    return EXIT_SUCCEEDED
