"""Rows of hosts. Each function runs inside the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from mlora_ray.errors import DatabaseError
from mlora_ray.store.database.mapping import num_changed
from mlora_ray.store.database.tables import HostRow
from mlora_ray.types import HostInfo, HostSettings, serialization

STATES = ("starting", "alive", "draining", "gone")


def next_number(session: Session) -> int:
    return session.scalars(select(func.count()).select_from(HostRow)).one()


def add(session: Session, settings: HostSettings, actor_name: str, at_s: float) -> None:
    if session.get(HostRow, settings.id) is not None:
        raise DatabaseError(f"host {settings.id!r} exists: an id is never used twice")
    row = HostRow(id=settings.id, number=next_number(session), settings=serialization.dumps(settings))
    row.actor_name, row.state, row.launched_at_s = actor_name, "starting", at_s
    session.add(row)


def joined(session: Session, info: HostInfo, at_s: float) -> None:
    row = session.get(HostRow, info.id)
    if row is None:
        raise DatabaseError(f"host {info.id!r} is not known")
    if row.state == "gone":
        return
    row.state = "alive" if row.state == "starting" else row.state
    row.node_id, row.node_ip, row.pid, row.numerics = info.node_id, info.node_ip, info.pid, info.numerics
    row.joined_at_s = at_s if row.joined_at_s is None else row.joined_at_s


def set_state(session: Session, host: str, state: str, at_s: float, why: str) -> None:
    if state not in STATES:
        raise ValueError(f"host {host}: state {state!r}; allowed: {', '.join(STATES)}")
    values: dict[str, Any] = {"state": state, "why": why}
    if state == "gone":
        values["gone_at_s"] = at_s
    mine = update(HostRow).where(HostRow.id == host, HostRow.state != "gone")
    if not num_changed(session, mine.values(**values)) and session.get(HostRow, host) is None:
        raise DatabaseError(f"host {host!r} is not known")
