"""What a job file says of its rows: which file, which of its rows, under which column names, and how they are cut."""

from __future__ import annotations

import os
from dataclasses import dataclass

HUB_PREFIX = "hub:"
FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # of every format but Parquet, which has its own
TURNS, MARKED, WHOLE = "turns", "marked", "whole"  # assistant_only_loss: turns | true | false
DROP, TRUNCATE, ERROR = "drop", "truncate", "error"  # overlong


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One file, folder or Hub data set of a job.

    `path` is absolute or `hub:owner/name`. `part` is a slice as `datasets` writes it, such as `:90%`. `columns` are
    pairs (name here, name in the file); `text_field` is the column of plain text where there is one of that name.
    """

    path: str
    subset: str = ""  # configuration of a data set
    split: str = ""  # of a folder or data set; empty: train
    part: str = ""
    weight: float = 1.0  # how many times a data pass takes each row
    columns: tuple[tuple[str, str], ...] = ()
    text_field: str = ""

    @property
    def is_hub(self) -> bool:
        return self.path.startswith(HUB_PREFIX)

    @property
    def place(self) -> str:
        """Where a mistake is: an editor opens it with a line behind."""
        return str(self) if self.is_hub else self.path

    def __str__(self) -> str:
        """The source as a person names it."""
        subset = f"({self.subset})" if self.subset else ""
        split = f"#{self.split}" if self.split and self.is_hub else f"[{self.split}]" if self.split else ""
        return f"{self.path}{subset}{split}{f'[{self.part}]' if self.part else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
    """How rows become tokens and targets: with the base's tokenizer it decides every token of a file's rows."""

    max_length: int
    completion_only_loss: bool = True
    assistant_only_loss: str = TURNS
    overlong: str = DROP  # what becomes of rows that `max_length` leaves without a target


def format_of_name(path: str) -> tuple[str, str] | None:
    """(format, compression) by the name's end, `(".jsonl", "gzip")` for x.jsonl.gz; None for a name of neither.

    The name as it is written: that of a symbolic link, not of what it points at.
    """
    stem, suffix = os.path.splitext(path.lower())
    compression = COMPRESSIONS.get(suffix, "")
    if compression:
        suffix = os.path.splitext(stem)[1]
    if suffix not in FORMATS or (compression and suffix == ".parquet"):
        return None
    return suffix, compression
