"""Reading what an assignment names: rows, and the state to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mlora_ray.errors import StorageError
from mlora_ray.store.bundles import read_bundle
from mlora_ray.store.tokenized_rows import read_rows
from mlora_ray.types import Assignment, JobSpec, MovedState

if TYPE_CHECKING:
    from mlora_ray.data.tokenized_rows import Rows
    from mlora_ray.engine.adapter_state import AdapterState
    from mlora_ray.engine.engine import Engine


class Loaded(NamedTuple):
    """What a job begins with here. No state: a fresh one."""

    rows: Rows
    eval_rows: Rows | None
    state: AdapterState | None
    num_tokens: int  # the state was trained on


def load(engine: Engine, assignment: Assignment, moved: MovedState | None) -> Loaded:
    """Raises StorageError for what cannot be read, JobError for a state that does not fit."""
    spec = assignment.spec
    rows = read_rows(spec.train_rows)
    eval_rows = read_rows(spec.eval_rows) if spec.eval_rows else None
    if moved is not None:
        return Loaded(rows, eval_rows, state_from(engine, spec, moved.arrays), moved.num_tokens)
    if not assignment.bundle_uri:
        return Loaded(rows, eval_rows, None, 0)
    arrays, meta = read_own_bundle(spec, assignment.bundle_uri)
    return Loaded(rows, eval_rows, state_from(engine, spec, arrays), int(meta.get("num_tokens", 0)))


def is_out_of_memory(error: Exception) -> bool:
    from mlora_ray.engine import memory_budget

    return memory_budget.is_out_of_memory(error)


def read_own_bundle(spec: JobSpec, uri: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
    arrays, meta = read_bundle(uri)
    if meta.get("job") != spec.name:
        raise StorageError(f"{uri}: is a bundle of {meta.get('job')!r}, not of {spec.name!r}")
    return arrays, meta


def state_from(engine: Engine, spec: JobSpec, arrays: Mapping[str, Any]) -> AdapterState:
    from mlora_ray.engine.adapter_state import AdapterState

    return AdapterState.from_arrays(engine.layout(spec), dict(arrays), str(engine.base.device))
