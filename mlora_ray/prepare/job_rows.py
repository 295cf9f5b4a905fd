"""The rows of a job file's jobs: each (file, settings) is tokenised and stored once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mlora_ray.bases.linear_shapes import BaseShapes
from mlora_ray.config.job_file import JobFile, JobFileEntry
from mlora_ray.data.readers import read_rows
from mlora_ray.data.tokenization import Prepared, prepare_rows
from mlora_ray.data.tokenized_rows import rows_sha256, to_bytes
from mlora_ray.errors import InputError, Mistake, StorageError
from mlora_ray.store.files import write_file
from mlora_ray.types import RowsRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RowsKey = tuple[str, int, bool]  # path, max_length, completion_only_loss
OF_THE_FILE = ("file", "data set")  # fields of mistakes that the path in the job file may be the cause of


def rows_key(job: JobFileEntry, path: str) -> RowsKey:
    """What decides the tokenised rows of one of a job's files."""
    return path, job.train.max_length, job.train.completion_only_loss


def _paths(job: JobFileEntry) -> list[tuple[str, str]]:
    """(field, path) of each file of a job."""
    return [(field, path) for field, path in (("train", job.train_path), ("eval", job.eval_path)) if path]


def reading_mistakes(job_file: JobFile) -> list[Mistake]:
    """What can be said of the data without a tokenizer."""
    found: list[Mistake] = []
    seen: set[str] = set()
    for job in job_file.jobs:
        for field, path in _paths(job):
            if path in seen:
                continue
            seen.add(path)
            try:
                read_rows(path)
            except InputError as error:
                found += [in_job_file(m, job_file.path, job, field) for m in error.mistakes]
    return found


def in_job_file(mistake: Mistake, path: str, job: JobFileEntry, field: str) -> Mistake:
    """The mistake at the job file's line of the field that can mend it; one of a row stays at the row."""
    if mistake.field in OF_THE_FILE and not mistake.line:
        value, allowed = mistake.value or mistake.file, mistake.allowed
    elif mistake.field == "max_length":
        field, value = "max_length", mistake.value
        row = f"{mistake.file}:{mistake.line}" if mistake.line else mistake.file
        allowed = f"{mistake.allowed} ({row})"
    else:
        return mistake
    line = job.line_of(field)
    return dataclasses.replace(mistake, file=path, line=line, job=job.name, field=field, value=value, allowed=allowed)


class RowsOfJobs:
    """Prepares each (file, settings) once."""

    def __init__(
        self, job_file: JobFile, tokenizer: PreTrainedTokenizerBase, shapes: BaseShapes, data_dir_uri: str | None
    ) -> None:
        self.job_file, self.tokenizer, self.shapes, self.data_dir_uri = job_file, tokenizer, shapes, data_dir_uri
        self.refs: dict[RowsKey, RowsRef] = {}
        self.mistakes: list[Mistake] = []
        self._failed: set[RowsKey] = set()

    def prepare(self, job: JobFileEntry) -> None:
        """Rows of one job's files into `refs`, or its mistakes into `mistakes`."""
        for field, path in _paths(job):
            key = rows_key(job, path)
            if key in self.refs or key in self._failed:
                continue
            try:
                self.refs[key] = self._prepare_one(key)
            except InputError as error:
                self._failed.add(key)
                found = [in_job_file(m, self.job_file.path, job, field) for m in error.mistakes]
                self.mistakes += [m for m in found if m not in self.mistakes]

    def _prepare_one(self, key: RowsKey) -> RowsRef:
        path, max_length, completion_only = key
        prepared = prepare_rows(path, self.tokenizer, max_length=max_length, completion_only_loss=completion_only)
        longest, limit = int(prepared.rows.lengths.max()), self.shapes.max_position
        if limit and longest > limit:
            allowed = f"at most {limit}, the base's longest row; this file has a row of {longest} tokens"
            raise InputError([Mistake(file=path, field="max_length", value=str(max_length), allowed=allowed)])
        return _store_rows(prepared, path, self.data_dir_uri)


def _store_rows(prepared: Prepared, source: str, data_dir_uri: str | None) -> RowsRef:
    sha256 = rows_sha256(prepared.rows)
    uri = f"{data_dir_uri.rstrip('/')}/{sha256}.rows" if data_dir_uri else ""
    if uri:
        _write_once(uri, to_bytes(prepared.rows))
    return RowsRef(
        uri=uri,
        sha256=sha256,
        source=source,
        num_rows=prepared.rows.num_rows,
        num_tokens=len(prepared.rows.tokens),
        num_target_tokens=int(prepared.rows.num_targets().sum()),
        num_truncated=prepared.num_truncated,
        max_row_tokens=int(prepared.rows.lengths.max()),
    )


def _write_once(uri: str, data: bytes) -> None:
    """A file of that name is always whole, and named by its content: one that is there is the one. StorageError."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(uri)
        if not files.exists(path):
            write_file(uri, data)
    except StorageError:
        raise
    except Exception as error:  # of the file system, whose client has errors of its own
        raise StorageError(f"{uri}: rows cannot be written: {error}") from error
