"""The lease: one placement service at a time writes to a database.

No clock of another machine is read. Whoever wants the lease of another watches its beat with a clock of his own: a
beat that moves belongs to a service at work, one that stands still to a service that is gone, or stopped; should that
one wake, its generation is no longer the one that is here, and none of its writes is done.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from mlora_ray.errors import LeaseLost
from mlora_ray.store.database.tables import LeaseRow

NUM_LOOKS = 16  # at the beat of another, over the whole patience


class Lease(NamedTuple):
    """Who may write. No holder: whoever comes first."""

    holder: str
    generation: int
    beat: int


def read(session: Session) -> Lease:
    return Lease(*session.execute(select(LeaseRow.holder, LeaseRow.generation, LeaseRow.beat)).one())


def check(session: Session, generation: int) -> None:
    """Raises LeaseLost unless `generation` still holds; then nobody takes over before this transaction ends."""
    query = select(LeaseRow.holder, LeaseRow.generation).with_for_update(read=True)
    row = session.execute(query).one()
    if row.generation != generation:
        who = f"{row.holder!r} has taken over" if row.holder else "it was given back"
        raise LeaseLost(f"this service no longer holds the control database ({who}): nothing was written")


def claim(session: Session, holder: str, stood_still: Lease | None = None) -> int | None:
    """Take a lease that is free, the holder's own or still as it `stood_still`; answers its generation, or None."""
    query = select(LeaseRow.holder, LeaseRow.generation, LeaseRow.beat).with_for_update()
    now = Lease(*session.execute(query).one())
    if now.holder not in ("", holder) and now != stood_still:
        return None
    generation = now.generation + 1
    session.execute(update(LeaseRow).values(holder=holder, generation=generation, beat=now.beat + 1))
    return generation


def beat(session: Session) -> None:
    """Show that the holder is at work; the transaction has checked that it holds."""
    session.execute(update(LeaseRow).values(beat=LeaseRow.beat + 1))


def release(session: Session, generation: int) -> None:
    """Free the lease if `generation` still holds it, and fence its holder off."""
    mine = update(LeaseRow).where(LeaseRow.generation == generation)
    session.execute(mine.values(holder="", generation=generation + 1))
