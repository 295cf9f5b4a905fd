"""The table of `mlora-ray hosts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlora_ray.display.numbers import count, show_bytes, show_rate, show_seconds
from mlora_ray.display.tables import Column
from mlora_ray.types.status import HostStatus

if TYPE_CHECKING:
    from collections.abc import Sequence


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


def whole_line(hosts: Sequence[HostStatus]) -> str:
    here = [host for host in hosts if host.state != "gone"]
    rate = show_rate(sum(host.tokens_per_s for host in here))
    spot = sum(host.is_spot for host in here)
    parts = [count(len(here), "host"), count(sum(host.num_jobs for host in here), "job"), f"{rate} tokens/s"]
    return " · ".join([*parts, f"{spot} spot"] if spot else parts)
