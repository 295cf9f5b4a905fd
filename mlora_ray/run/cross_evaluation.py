"""Cross-evaluation: every trained adapter on every job's evaluation rows, to see what each has learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlora_ray.types import CrossLosses, CrossRequest, JobState
from mlora_ray.types.records import JobRecord

MAX_CROSS_JOBS = 16  # the work grows with the square
MAX_CROSS_ROWS = 16  # of each job's evaluation rows


def cross_requests(records: Sequence[JobRecord]) -> list[CrossRequest]:
    """Succeeded jobs that have evaluation rows."""
    return [
        CrossRequest(r.spec, r.bundle_uri)
        for r in records
        if r.state is JobState.SUCCEEDED and r.spec.eval_rows is not None
    ]


def why_not(requests: Sequence[CrossRequest]) -> str:
    """A sentence when there is no cross-evaluation; else empty."""
    if not requests:
        return "no cross-evaluation: no succeeded job has evaluation rows"
    if len(requests) > MAX_CROSS_JOBS:
        return (
            f"no cross-evaluation: {len(requests)} jobs have evaluation rows, it is made for at most {MAX_CROSS_JOBS}"
        )
    return ""


def cross_entry(requests: Sequence[CrossRequest], losses: CrossLosses) -> dict[str, Any]:
    """The `cross_eval` of summary.json."""
    names = [r.spec.name for r in requests]
    return {
        "adapters": names,
        "rows": names,
        "loss": [list(row) for row in losses.loss],
        "base_loss": list(losses.base_loss),
        "max_rows": MAX_CROSS_ROWS,
    }
