"""The jobs in memory mirror the database's rows: loading them, and reading them again where a write was in doubt."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from mlora_ray.control.jobs.state import JobEntry, JobTable
from mlora_ray.data.batch_sampler import tokens_total
from mlora_ray.store.database.control_database import ControlDatabase

log = logging.getLogger(__name__)


def load_jobs(
    database: ControlDatabase,
    jobs: JobTable,
    names: Sequence[str] | None = None,
    state_bytes: Mapping[str, int] | None = None,
) -> None:
    """Mirror the rows of these jobs, or of all."""
    kept, losses = database.kept_bundles_of_all(), database.last_losses()
    wanted = None if names is None else set(names)
    for record in database.jobs():
        name = record.spec.name
        if wanted is not None and name not in wanted:
            continue
        size = (state_bytes or {}).get(name, 0)
        loss = losses.get(name, math.nan)
        jobs.put(JobEntry(record, tokens_total(record.spec), kept.get(name, []), size, last_loss=loss))


def reread_jobs(database: ControlDatabase, jobs: JobTable) -> list[JobEntry]:
    """After a write that raised and may have been done all the same: mirror what the rows say. Answers who changed."""
    changed, kept = [], database.kept_bundles_of_all()
    for record in database.jobs():
        job = jobs.get(record.spec.name)
        if job is None:
            jobs.put(JobEntry(record, tokens_total(record.spec), kept.get(record.spec.name, [])))
        elif job.record != record:
            if job.record.epoch != record.epoch:
                job.is_taken, job.is_moving, job.leaves_for = False, False, None
            job.kept = kept.get(job.name, [])
            jobs.mirror(job, record)
            changed.append(job)
            log.warning("job=%s was changed by a write that had raised", job.name)
    return changed
