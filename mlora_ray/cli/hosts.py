"""`hosts` and `drain`: the hosts of a running service."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from mlora_ray.cli.options import AUTO, DEFAULT_SERVICE, AddressOption, JsonLinesOption, ServiceOption
from mlora_ray.cli.output import running_service
from mlora_ray.display.console import console, print_json, say
from mlora_ray.display.host_table import COLUMNS, NODE_CHARACTERS, host_cells, whole_line
from mlora_ray.display.tables import print_table
from mlora_ray.errors import command_line_mistake
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED


def hosts(
    gone: Annotated[bool, typer.Option("--gone", help="Those that are gone too, and why.")] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """The hosts: where they are, what they hold, how fast they train."""
    with running_service(address, service) as running:
        found = running.hosts(gone)
    out = console(False)
    if as_json:
        print_json({"hosts": [dataclasses.asdict(host) for host in found]})
    elif found:
        print_table(out, COLUMNS, [host_cells(host) for host in found])
        say(out, whole_line(found))
    else:
        say(out, "no hosts: there is no work, or they are not wanted yet (see `mlora-ray events`)")
    return EXIT_SUCCEEDED


def drain(
    target: Annotated[str, typer.Argument(metavar="HOST_OR_NODE", help="A host's name, or the start of a node's id.")],
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """Move every adapter off a host or a node, live, and let it go."""
    with running_service(address, service) as running:
        there = [host for host in running.hosts() if host.state != "gone"]
        if not target or not any(target == host.id or host.node_id.startswith(target) for host in there):
            known = ", ".join(f"{host.id} (node {host.node_id[:NODE_CHARACTERS] or 'none yet'})" for host in there)
            allowed = f"a host, or the start of a node id; there are: {known or 'no hosts'}"
            raise command_line_mistake("what to drain", target, allowed)
        drained = running.drain(target)
    if as_json:
        print_json({"draining": list(drained)})
    else:
        say(console(False), f"draining {', '.join(drained)}" if drained else f"{target} was draining already")
    return EXIT_SUCCEEDED
