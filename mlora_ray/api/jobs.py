"""A job in Python, and a list of them as the document that a job file would be.

There is one reader of jobs: whatever is said here is checked, and its mistakes are worded, by `config.job_file`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlora_ray.api.configs import default_target_modules, fields_of, one_name_each
from mlora_ray.config.data_fields import HUB_ID, SourceFields, written_source
from mlora_ray.config.field_reader import names_of
from mlora_ray.data.sources import HUB_PREFIX, format_of_name
from mlora_ray.errors import InputError, Mistake

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainingArguments

    Rows: TypeAlias = Dataset | pd.DataFrame | str | Path | Mapping[str, Any] | Sequence[Any]

SOURCE_FIELDS = frozenset(names_of(SourceFields))
WHERE = "mlora_ray"  # in place of a file's name, in mistakes


class Job:
    """One adapter to train, in PEFT's and TRL's own words.

    `train` and `eval` are rows: a `datasets.Dataset`, a pandas DataFrame, a list of dicts, or what a job file takes (a
    path, a Hub id). `lora` is a `peft.LoraConfig` or a mapping of its fields; `args` a TRL `SFTConfig`, transformers'
    `TrainingArguments`, or a mapping. `fields` are any further fields of a job file; they win over both. An
    `output_dir` of `args` is not used: `out` of `train` is the directory of all jobs.

    >>> job = Job("greeting", train=[{"prompt": "Hi", "completion": " there"}], lora={"r": 4}, max_steps=3)
    >>> job.fields
    {'r': 4, 'max_steps': 3}
    """

    def __init__(
        self,
        name: str,
        train: Rows,
        eval: Rows | None = None,
        *,
        lora: LoraConfig | Mapping[str, Any] | None = None,
        args: TrainingArguments | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        self.name = name
        self.train = train
        self.eval = eval
        self.fields: dict[str, Any] = one_name_each(fields_of(lora), fields_of(args), fields)
        # A LoraConfig that names no modules means PEFT's choice for the base; without one, a job file's default holds.
        self.is_peft_choice = hasattr(lora, "peft_type") and "target_modules" not in self.fields

    def __repr__(self) -> str:
        return f"Job({self.name!r}, {self.fields})"


def document_of(jobs: Sequence[Job], base: str, folder: Path, **top: Any) -> dict[str, Any]:
    """The job file of these jobs; rows that are in memory are written into `folder`. Raises InputError."""
    wrong = [job for job in jobs if not isinstance(job, Job)]
    if wrong:
        raise InputError([_mistake("jobs", type(wrong[0]).__name__, "a list of mlora_ray.Job")])
    chosen = default_target_modules(base) if any(job.is_peft_choice for job in jobs) else []
    entries = [
        {"name": job.name, **job.fields}
        | ({"target_modules": chosen} if job.is_peft_choice else {})
        | {which: written(rows, folder, job.name, which) for which, rows in _rows_of(job) if rows is not None}
        for job in jobs
    ]
    return {"base": base, **{key: value for key, value in top.items() if value is not None}, "jobs": entries}


def _rows_of(job: Job) -> list[tuple[str, Rows | None]]:
    return [("train", job.train), ("eval", job.eval)]


def written(rows: Rows, folder: Path, name: str, which: str) -> Any:
    """What a job file says of these rows: a path as it is, with folders made absolute, or that of the file written."""
    if isinstance(rows, str | Path):
        return _from_here(str(rows))
    if isinstance(rows, Mapping):
        return dict(rows) | ({"path": _from_here(str(rows["path"]))} if "path" in rows else {})
    if isinstance(rows, list) and any(isinstance(each, str | Path) or _is_source(each) for each in rows):
        return [written(each, folder, f"{name}.{number}", which) for number, each in enumerate(rows)]
    lines = _lines(rows, name, which)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{which}.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path.name


def _is_source(value: Any) -> bool:
    """One of several files, as a job file lists them; a row has no `path` of its own among these fields alone."""
    return isinstance(value, Mapping) and "path" in value and set(value) <= SOURCE_FIELDS


def _from_here(text: str) -> str:
    """A path from the working directory, as any Python program means it; a Hub id stays. `[:90%]` may follow."""
    path = written_source(text).path
    here = Path(path).expanduser()
    is_hub = path.startswith(HUB_PREFIX) or (HUB_ID.fullmatch(path) and format_of_name(path) is None)
    return text if is_hub and not here.exists() else f"{here.absolute()}{text[len(path) :]}"


def _lines(rows: Any, name: str, which: str) -> list[str]:
    field = f'job "{name}": {which}'
    if hasattr(rows, "to_dict") and hasattr(rows, "itertuples"):  # a DataFrame; pandas itself may not be loaded
        rows = rows.to_dict(orient="records")
    try:
        rows = list(rows) if hasattr(rows, "__len__") else None
    except TypeError:
        rows = None
    if rows is None:
        raise InputError([_mistake(field, "", "a Dataset, a DataFrame, a path or a list of dicts, of known length")])
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            allowed = f"rows that are dicts: row {number} is a {type(row).__name__}"
            raise InputError([_mistake(field, repr(row)[:60], allowed)])
    try:
        return [json.dumps(row, ensure_ascii=False) for row in rows]
    except (TypeError, ValueError) as error:
        raise InputError([_mistake(field, "", f"rows of text, numbers, lists and dicts: {error}")]) from error


def _mistake(field: str, value: str, allowed: str) -> Mistake:
    return Mistake(file=WHERE, field=field, value=value, allowed=allowed)
