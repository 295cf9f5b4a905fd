"""Runs, bases and numerics: on what the bits were made. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mlora_ray.errors import BaseDiffers
from mlora_ray.store.database.tables import BaseRow, NumericsFactRow, NumericsRow, RunFactRow, RunRow
from mlora_ray.types.hosts import BASE_FILES
from mlora_ray.types.records import Machine


def first_machine(session: Session) -> Machine | None:
    """Of the first host that has joined; before, what the first run was given."""
    run = session.scalars(select(RunRow).order_by(RunRow.id).limit(1)).first()
    if run and (facts := _run_facts(session)):
        return Machine(run.device, run.threads, tuple(facts.items()))
    if row := session.scalars(select(NumericsRow).order_by(NumericsRow.place).limit(1)).first():
        query = select(NumericsFactRow).where(NumericsFactRow.numerics == row.id)
        found = session.scalars(query.order_by(NumericsFactRow.place))
        return Machine(row.device, row.threads, tuple((f.name, f.value) for f in found))
    return Machine(run.device, run.threads) if run else None


def bind_base(session: Session, base: str, sha256: str, host: str, node: str) -> None:
    first = session.get(BaseRow, base)
    if first is None:
        session.add(BaseRow(base=base, sha256=sha256, host=host, node=node))
    elif first.sha256 != sha256:
        what = "config, tokenizer or chat template" if base.endswith(BASE_FILES) else "weights"
        raise BaseDiffers(
            f"base {base.removesuffix(BASE_FILES)!r} is not the same everywhere, or not what this run began with: on "
            f"node {node} (host {host}) its {what} have sha256 {sha256}, "
            f"on node {first.node} (host {first.host}) they had {first.sha256}: give every node the same files"
        )


def bind_numerics(session: Session, numerics: str, facts: Mapping[str, str], device: str, threads: int) -> None:
    if session.get(NumericsRow, numerics) is not None:
        return
    place = session.scalars(select(func.count()).select_from(NumericsRow)).one()
    session.add(NumericsRow(id=numerics, place=place, device=device, threads=threads))
    session.flush()  # facts refer to it
    rows = enumerate(facts.items())
    session.add_all(NumericsFactRow(numerics=numerics, name=n, place=i, value=value) for i, (n, value) in rows)


def _run_facts(session: Session) -> dict[str, str]:
    """Facts of the first machine that trained, in their order."""
    rows = session.scalars(select(RunFactRow).order_by(RunFactRow.run, RunFactRow.place)).all()
    return {row.name: row.value for row in rows}
