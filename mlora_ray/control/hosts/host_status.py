"""What people see of hosts."""

from __future__ import annotations

from mlora_ray.types.records import HostRecord
from mlora_ray.types.status import HostStatus


def gone_status(record: HostRecord) -> HostStatus:
    """A host that is gone, from the database."""
    began_s = record.joined_at_s or record.launched_at_s
    return HostStatus(
        id=record.settings.id,
        host_type=record.settings.host_type,
        base=record.settings.base.id,
        state="gone",
        node_id=record.node_id,
        node_ip=record.node_ip,
        pid=record.pid,
        device_type=record.settings.device,
        alive_s=(record.gone_at_s or began_s) - began_s,
        detail=record.why,
    )
