"""Whether a job can be trained on a base: its rows and its saved state."""

from __future__ import annotations

from mlora_ray.data.tokenized_rows import Rows, token_outside
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import Base
from mlora_ray.engine.memory_budget import MemoryBudget
from mlora_ray.errors import JobError
from mlora_ray.kernels.attention import FLASH_FROM
from mlora_ray.types import BUFFER_ROWS, JobSpec, MemoryModel


def check_job(base: Base, spec: JobSpec, rows: Rows, state: AdapterState | None) -> None:
    """Raises JobError."""
    if base.position_limit and rows.num_rows and int(rows.lengths.max()) > base.position_limit:
        raise JobError(f"job {spec.name!r} has rows longer than the base's {base.position_limit} positions")
    vocabulary = base.head_VD.shape[0]
    if (outside := token_outside(rows, vocabulary)) is not None:  # would end a GPU process for every job on it
        raise JobError(f"rows of job {spec.name!r} hold token id {outside}; the base has 0 to {vocabulary - 1}")
    if state is not None and len(state.flat) != BUFFER_ROWS[spec.train.optim]:
        raise JobError(
            f"saved state of job {spec.name!r} has {len(state.flat)} buffers, "
            f"{spec.train.optim} needs {BUFFER_ROWS[spec.train.optim]}"
        )


def check_memory(
    base: Base, spec: JobSpec, rows: Rows, own_bytes: int, memory: MemoryModel, budget: MemoryBudget
) -> None:
    """Raises JobError where the job alone would take more than the limit, as measured: nothing cuts a row shorter.

    `own_bytes`: its state and its open step.
    """
    longest = int(rows.lengths.max()) if rows.num_rows else 0
    kept = longest if longest < FLASH_FROM or base.softcap else 0
    need = memory.peak_bytes(base.num_bytes, longest, kept, own_bytes)
    if need > budget.limit_bytes:
        mib = 1 << 20
        raise JobError(
            f"job {spec.name!r} does not fit into memory alone: with its longest row of {longest:,} tokens about "
            f"{need / mib:,.0f} MiB, the limit is {budget.limit_bytes / mib:,.0f} MiB: shorten max_length, lower r, "
            "or train on a larger host"
        )
