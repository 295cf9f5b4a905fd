"""Everything before training: the base, the rows, the targets; all mistakes at once. And what it will cost."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any

from mlora_ray.bases.checkpoint_files import refuse_custom_code
from mlora_ray.bases.linear_shapes import BaseShapes, base_shapes
from mlora_ray.bases.resolve import resolve_base
from mlora_ray.config.job_file import JobFile, JobFileEntry
from mlora_ray.data import batch_sampler
from mlora_ray.errors import InputError, Mistake
from mlora_ray.prepare.base_checks import require_usable
from mlora_ray.prepare.job_rows import RowsKey, RowsOfJobs, reading_mistakes, rows_key
from mlora_ray.prepare.target_checks import target_mistakes, wide_ranks
from mlora_ray.types import BaseSpec, JobSpec, RowsRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)


def prepare(job_file: JobFile, data_dir_uri: str | None) -> list[JobSpec]:
    """Specs ready to train; tokenised rows go into `data_dir_uri` (any fsspec URL), or nowhere if it is None.

    Raises InputError with every mistake of the job file's fields, the base, the rows and the targets; StorageError if
    rows cannot be written.
    """
    found = list(job_file.mistakes)
    if not job_file.base:
        raise InputError(found + reading_mistakes(job_file))
    try:
        base = resolve_base(job_file.base, job_file.dtype)
        tokenizer, shapes = _opened(base)
        require_usable(base)
    except InputError as error:
        of_base = [_at_base(job_file, m) for m in error.mistakes]
        raise InputError(found + of_base + reading_mistakes(job_file)) from error
    rows = RowsOfJobs(job_file, tokenizer, shapes, None if found else data_dir_uri)
    found += target_mistakes(job_file, shapes)
    for job in job_file.jobs:
        rows.prepare(job)
    found += rows.mistakes
    if found:
        raise InputError(found)
    specs = [_job_spec(job, base, rows.refs) for job in job_file.jobs]
    for warning in wide_ranks(specs) if data_dir_uri else []:  # `check` has them in its report
        _log.warning("event=wide_rank %s", warning)
    return specs


def _at_base(job_file: JobFile, mistake: Mistake) -> Mistake:
    """The mistake at the line of `base` in the job file."""
    is_named = mistake.file in (job_file.base, mistake.value)
    allowed = mistake.allowed if is_named else f"{mistake.allowed} ({mistake.file})"
    return dataclasses.replace(mistake, file=job_file.path, line=job_file.base_line, allowed=allowed)


def _opened(base: BaseSpec) -> tuple[PreTrainedTokenizerBase, BaseShapes]:
    """The base's tokenizer and shapes; files that transformers cannot use are a mistake of the input."""
    from transformers import AutoTokenizer

    refuse_custom_code(base.name, base.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
        return tokenizer, base_shapes(base.path)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        allowed = f"a causal language model and tokenizer that transformers can load without remote code: {said}"
        raise InputError([Mistake(file=base.path, field="base", value=base.name, allowed=allowed)]) from error


def _job_spec(job: JobFileEntry, base: BaseSpec, refs: dict[RowsKey, RowsRef]) -> JobSpec:
    train_rows = refs[rows_key(job, job.train_files)]
    total_steps = batch_sampler.total_steps(job.train, train_rows.num_rows)
    per_epoch = batch_sampler.steps_per_epoch(job.train, train_rows.num_rows)
    steps: dict[str, Any] = {
        name: per_epoch if isinstance(every, str) else math.ceil(total_steps * every)
        for name, every in job.relative_steps.items()
    }
    return JobSpec(
        name=job.name,
        base=base,
        lora=job.lora,
        train=dataclasses.replace(job.train, **steps),
        train_rows=train_rows,
        eval_rows=refs[rows_key(job, job.eval_files)] if job.eval_files else None,
        total_steps=total_steps,
        tenant=job.tenant,
        priority=job.priority,
        deadline_at_s=job.deadline_at_s,
        device_type=job.device_type,
    )
