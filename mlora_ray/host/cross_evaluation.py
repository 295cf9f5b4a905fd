"""Every adapter on every job's evaluation rows, on a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlora_ray.store.tokenized_rows import first_rows, read_rows
from mlora_ray.types import CrossLosses, CrossRequest

if TYPE_CHECKING:
    from mlora_ray.engine.engine import Engine
from mlora_ray.host.loading import read_own_bundle, state_from


def cross_evaluate(engine: Engine, requests: list[CrossRequest], max_rows: int) -> CrossLosses:
    """Every adapter on the first `max_rows` evaluation rows of every job. Raises StorageError."""
    columns = [first_rows(read_rows(r.spec.eval_rows), max_rows) for r in requests if r.spec.eval_rows]
    base_loss = engine.evaluate([(None, None, rows) for rows in columns])
    losses = []
    for request in requests:  # one adapter at a time: its state is all that is added to memory
        state = state_from(engine, request.spec, read_own_bundle(request.spec, request.bundle_uri)[0])
        losses.append(tuple(engine.evaluate([(state, request.spec, rows) for rows in columns])))
    return CrossLosses(tuple(losses), tuple(base_loss))
