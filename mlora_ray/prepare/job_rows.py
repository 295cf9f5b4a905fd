"""The rows of a job file's jobs: each (files, settings) is tokenised and stored once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlora_ray.bases.linear_shapes import BaseShapes
from mlora_ray.config.job_file import JobFile, JobFileEntry
from mlora_ray.data.mixing import Mixed, is_drawn, mix
from mlora_ray.data.readers import read_rows
from mlora_ray.data.sources import DataFile, RowSettings
from mlora_ray.data.tokenization import Prepared, prepare_rows
from mlora_ray.data.tokenized_rows import rows_sha256, to_bytes
from mlora_ray.errors import InputError, Mistake, StorageError
from mlora_ray.store.files import write_file
from mlora_ray.types import FileCounts, RowCounts, RowsRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FileKey = tuple[DataFile, RowSettings]  # what decides the tokenised rows of one file
OF_THE_FILE = ("file", "data set")  # fields of mistakes that the path in the job file may be the cause of
OF_THE_JOB_FILE = ("max_length", "split", "weight", "assistant_only_loss")  # fields of mistakes that it says itself


class RowsKey(NamedTuple):
    """What decides the tokenised rows of a job's `train` or `eval`."""

    files: tuple[DataFile, ...]
    settings: RowSettings
    seed: int  # 0 where nothing is drawn


def rows_key(job: JobFileEntry, files: tuple[DataFile, ...]) -> RowsKey:
    return RowsKey(files, job.rows, job.train.seed if any(is_drawn(file.weight) for file in files) else 0)


def _files(job: JobFileEntry) -> list[tuple[str, tuple[DataFile, ...]]]:
    """(field, files) of a job."""
    return [(field, files) for field, files in (("train", job.train_files), ("eval", job.eval_files)) if files]


def reading_mistakes(job_file: JobFile) -> list[Mistake]:
    """What can be said of the data without a tokenizer."""
    found: list[Mistake] = []
    seen: set[DataFile] = set()
    for job in job_file.jobs:
        for field, file in [(field, file) for field, files in _files(job) for file in files]:
            if file in seen:
                continue
            seen.add(file)
            try:
                read_rows(file)
            except InputError as error:
                found += [in_job_file(m, job_file.path, job, field) for m in error.mistakes]
    return found


def in_job_file(mistake: Mistake, path: str, job: JobFileEntry, field: str) -> Mistake:
    """The mistake at the job file's line of the field that can mend it; one of a row stays at the row."""
    if mistake.field in OF_THE_FILE and not mistake.line:
        value, allowed = mistake.value or mistake.file, mistake.allowed
    elif mistake.field in OF_THE_JOB_FILE or mistake.field.startswith("columns."):
        where = mistake.field.partition(".")[0]
        field, value = (field if where in ("split", "weight") else mistake.field), mistake.value
        row = f"{mistake.file}:{mistake.line}" if mistake.line else mistake.file
        allowed = mistake.allowed if where == "columns" else f"{mistake.allowed} ({row})"
    else:
        return mistake
    line = job.line_of(field.partition(".")[0])
    return dataclasses.replace(mistake, file=path, line=line, job=job.name, field=field, value=value, allowed=allowed)


def _file_key(file: DataFile, settings: RowSettings) -> FileKey:
    return dataclasses.replace(file, weight=1.0), settings


class RowsOfJobs:
    """Prepares each (files, settings) once, and each file among them."""

    def __init__(
        self, job_file: JobFile, tokenizer: PreTrainedTokenizerBase, shapes: BaseShapes, data_dir_uri: str | None
    ) -> None:
        self.job_file, self.tokenizer, self.shapes, self.data_dir_uri = job_file, tokenizer, shapes, data_dir_uri
        self.refs: dict[RowsKey, RowsRef] = {}
        self.mistakes: list[Mistake] = []
        self._prepared: dict[FileKey, Prepared | InputError] = {}
        keys = {rows_key(job, files) for job in job_file.jobs for _, files in _files(job)}
        self._uses = Counter(_file_key(file, key.settings) for key in keys for file in key.files)
        self._failed: set[RowsKey] = set()

    def prepare(self, job: JobFileEntry) -> None:
        """Rows of one job's files into `refs`, or its mistakes into `mistakes`."""
        for field, files in _files(job):
            key = rows_key(job, files)
            if key in self.refs or key in self._failed:
                continue
            try:
                self.refs[key] = self._prepare_one(key)
            except InputError as error:
                self._failed.add(key)
                found = [in_job_file(m, self.job_file.path, job, field) for m in error.mistakes]
                self.mistakes += [m for m in found if m not in self.mistakes]

    def _prepare_one(self, key: RowsKey) -> RowsRef:
        found = [self._prepare_file(file, key.settings) for file in key.files]
        if wrong := [m for each in found if isinstance(each, InputError) for m in each.mistakes]:
            raise InputError(wrong)
        prepared = [each for each in found if isinstance(each, Prepared)]
        mixed = mix(key.files, prepared, key.seed)
        longest, limit = int(mixed.rows.lengths.max()), self.shapes.max_position
        if limit and longest > limit:
            source = next(f for f, p in zip(key.files, prepared, strict=True) if longest in p.rows.lengths)
            allowed = f"at most {limit}, the base's longest row; this file has a row of {longest} tokens"
            value = str(key.settings.max_length)
            raise InputError([Mistake(file=str(source), field="max_length", value=value, allowed=allowed)])
        return _store_rows(key.files, prepared, mixed, self.data_dir_uri)

    def _prepare_file(self, file: DataFile, settings: RowSettings) -> Prepared | InputError:
        """The rows of one file, or what is wrong with it: kept until the last job that takes them has them."""
        key = _file_key(file, settings)
        if key not in self._prepared:
            try:
                self._prepared[key] = prepare_rows(file, self.tokenizer, settings)
            except InputError as error:
                self._prepared[key] = error
        self._uses[key] -= 1
        return self._prepared[key] if self._uses[key] > 0 else self._prepared.pop(key)


def _store_rows(
    files: Sequence[DataFile], prepared: Sequence[Prepared], mixed: Mixed, data_dir_uri: str | None
) -> RowsRef:
    rows = mixed.rows
    sha256 = rows_sha256(rows)
    uri = f"{data_dir_uri.rstrip('/')}/{sha256}.rows" if data_dir_uri else ""
    if uri:
        _write_once(uri, to_bytes(rows))
    return RowsRef(
        uri=uri,
        sha256=sha256,
        source=" + ".join(map(str, files)),
        num_rows=rows.num_rows,
        num_tokens=len(rows.tokens),
        num_target_tokens=int(rows.num_targets().sum()),
        num_truncated=sum(each.num_truncated for each in prepared),
        max_row_tokens=int(rows.lengths.max()),
        counts=_counts(files, prepared, mixed),
    )


def _counts(files: Sequence[DataFile], prepared: Sequence[Prepared], mixed: Mixed) -> RowCounts:
    each = zip(files, prepared, mixed.num_taken, strict=True)
    return RowCounts(
        num_dropped=sum(p.num_dropped for p in prepared),
        num_straddling=sum(p.num_straddling for p in prepared),
        num_with_start=sum(p.num_with_start for p in prepared),
        unread=tuple(dict.fromkeys(name for p in prepared for name in p.unread)),
        files=tuple(
            FileCounts(
                source=str(file), weight=file.weight, num_read=p.num_read, num_dropped=p.num_dropped, num_taken=taken
            )
            for file, p, taken in each
        ),
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
