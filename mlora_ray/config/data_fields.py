"""The fields of a job file that name its rows: where they are, under which columns, which tokens are targets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Required

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from mlora_ray.config.field_reader import FieldReader, show_value
from mlora_ray.config.field_types import Number, Text, described
from mlora_ray.config.yaml_lines import KeyPath, Value, dotted
from mlora_ray.data.row_formats import COLUMN_NAMES
from mlora_ray.data.sources import HUB_PREFIX, MARKED, TURNS, WHOLE, DataFile, format_of_name

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WRITTEN = re.compile(r"(?P<path>.+?)(#(?P<hash>[\w.-]+))?(\[(?P<split>[\w.-]+)\])?(\[(?P<part>[^\[\]:]*:[^\[\]:]*)\])?")
SPLIT = re.compile(r"(?P<split>[\w.-]*)(\[(?P<part>[^\[\]:]*:[^\[\]:]*)\])?")
PART = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")
MOST_WEIGHT = 1000
SOURCE_ALLOWED = "a path, a Hub data set, a mapping with path, or a list of these"


def _columns(value: object) -> object:
    """Pairs (name here, name in the file)."""
    if not isinstance(value, dict) or not value:
        raise ValueError("a mapping such as {prompt: question, completion: answer}")
    for name, column in value.items():
        if name not in COLUMN_NAMES:
            turned = f"; write {column}: {name}" if column in COLUMN_NAMES else ""
            raise ValueError(f"names from {', '.join(COLUMN_NAMES)} before each colon, not {name!r}{turned}")
        if not isinstance(column, str) or not column:
            raise ValueError(f"the name of a column for {name}, not {described(column)}")
    return tuple(value.items())


def _assistant_only(value: object) -> object:
    if isinstance(value, bool):
        return MARKED if value else WHOLE
    if value == TURNS:
        return value
    raise ValueError(f"turns, true or false, not {described(value)}")


Columns = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_columns)]


class DataFields(TypedDict, total=False):
    """What may stand in `defaults` and in a job."""

    columns: Columns
    dataset_text_field: Text
    assistant_only_loss: Annotated[str, BeforeValidator(_assistant_only)]
    overlong: Literal["drop", "truncate", "error"]


class SourceFields(TypedDict, total=False):
    """One of the sources of `train` or `eval`, written as a mapping."""

    path: Required[Text]
    name: Text | None
    split: Text | None
    weight: Annotated[Number, Field(gt=0, le=MOST_WEIGHT)]
    columns: Columns


class WrittenSource(NamedTuple):
    """PATH, PATH[split], PATH[slice], PATH[split][slice] or owner/name#split in its parts."""

    path: str
    split: str
    part: str


def written_source(text: str) -> WrittenSource:
    found = WRITTEN.fullmatch(text)
    if not found:
        return WrittenSource(text, "", "")
    path, split = found["path"], found["split"] or ""
    if found["hash"] and (path.startswith(HUB_PREFIX) or HUB_ID.fullmatch(path)):
        split = split or found["hash"]
    elif found["hash"]:
        path += f"#{found['hash']}"  # part of a file's own name
    return WrittenSource(path, split, found["part"] or "")


def read_sources(
    fields: FieldReader, folder: Path, value: Value, at: KeyPath, held: Mapping[str, Any]
) -> tuple[DataFile, ...]:
    """The files of `train` or `eval` at `at`; `held` are the job's own fields. Adds mistakes to `fields`."""
    items = [(item, (*at, i)) for i, item in enumerate(value)] if isinstance(value, list) else [(value, at)]
    if not items:
        fields.add(at, dotted(at), "[]", f"at least one: {SOURCE_ALLOWED}")
    found = [_source(fields, folder, item, place, held) for item, place in items]
    return tuple(file for file in found if file is not None)


def _source(fields: FieldReader, folder: Path, value: Value, at: KeyPath, held: Mapping[str, Any]) -> DataFile | None:
    if isinstance(value, str) and value:
        own: dict[str, Any] = {"path": value}
    elif isinstance(value, dict):
        before = len(fields.mistakes)
        own = fields.validated(SourceFields, value, at)
        if len(fields.mistakes) > before:
            return None
    else:
        fields.add(at, dotted(at), show_value(value), f"{SOURCE_ALLOWED}, not {described(value)}")
        return None
    text = own["path"]
    is_name = not text.startswith(HUB_PREFIX) and os.path.exists(_beside(folder, text))
    written = WrittenSource(text, "", "") if is_name else written_source(text)
    split, part = _split(fields, own.get("split"), written, at)
    path = _place(fields, folder, written.path, text, at)
    if path is None:
        return None
    text_field = held.get("dataset_text_field", "")
    return DataFile(
        path=path,
        subset=own.get("name") or "",
        split=split,
        part=part,
        weight=own.get("weight", 1.0),
        columns=own.get("columns") or held.get("columns", ()),
        text_field=text_field,
    )


def _beside(folder: Path, text: str) -> str:
    return str(folder / os.path.expanduser(text))


def _split(fields: FieldReader, asked: str | None, written: WrittenSource, at: KeyPath) -> tuple[str, str]:
    """(split, slice) of the mapping's `split`, or of the brackets behind the path."""
    found = SPLIT.fullmatch(asked) if asked else None
    split, part = (found["split"], found["part"] or "") if found else (written.split, written.part)
    allowed = "a split, a slice such as [:90%] or [100:200], or both as in train[:90%]"
    if (asked and not found) or (part and not PART.fullmatch(part)):
        fields.add((*at, "split"), dotted(at), asked or f"[{part}]", allowed)
    elif asked and (written.split or written.part):
        fields.add((*at, "split"), dotted((*at, "split")), asked, "the split here or behind the path, not both")
    return split, part


def _place(fields: FieldReader, folder: Path, path: str, text: str, at: KeyPath) -> str | None:
    """An absolute path as it was written, links and all, or `hub:...`; None where there is none: a mistake."""
    if path.startswith(HUB_PREFIX):
        return path
    place = _beside(folder, path)
    if os.path.exists(place):
        return place
    if HUB_ID.fullmatch(path) and format_of_name(path) is None:
        return HUB_PREFIX + path
    slices = "; a slice is written [:90%] or [100:200]" if "[" in path else ""
    allowed = f"a file that exists, or a folder, beside the job file or absolute (looked for {place}){slices}"
    fields.add(at, dotted(at), text, allowed)
    return None
