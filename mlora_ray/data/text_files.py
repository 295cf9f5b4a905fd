"""JSON lines, JSON lists, CSV and TSV, plain or compressed: rows with the line each was written on."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlora_ray.errors import InputError, Mistake

MAX_SHOWN = 20
SPACE = re.compile(r"\s*")


class RawRow(NamedTuple):
    """One row as it was written. `line` is 0 where the file has no lines (Parquet, Hub); `number` is 1-based."""

    number: int
    line: int
    value: object


class MistakeList:
    """The mistakes of one file: the first `MAX_SHOWN` are kept, all are counted."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.shown: list[Mistake] = []
        self.count = 0

    def add(self, field: str, value: object, allowed: str, line: int = 0) -> None:
        self.count += 1
        if len(self.shown) < MAX_SHOWN:
            text = value if isinstance(value, str) else repr(value)
            text = text if len(text) <= 80 else text[:77] + "..."
            self.shown.append(Mistake(file=self.file, field=field, value=text, allowed=allowed, line=line))

    def raise_any(self) -> None:
        """Raise InputError if there is any mistake."""
        if not self.count:
            return
        more = self.count - len(self.shown)
        rest = Mistake(file=self.file, field=f"and {more} more", value="", allowed="mended after these")
        raise InputError(self.shown + ([rest] if more else []))


def read_text_rows(path: Path, suffix: str, compression: str, mistakes: MistakeList) -> list[RawRow]:
    """The rows of a text file of format `suffix`; its mistakes go into `mistakes`."""
    text = _read_text(path, compression, mistakes)
    if text is None:
        return []
    if suffix in (".csv", ".tsv"):
        return list(_table(text, "," if suffix == ".csv" else "\t", mistakes))
    read = _json_list if suffix == ".json" and text.lstrip().startswith("[") else _json_lines
    return list(read(text, mistakes))


def _read_text(path: Path, compression: str, mistakes: MistakeList) -> str | None:
    try:
        raw = _decompressed(path, compression) if compression else path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        mistakes.add("file", "", f"a readable {compression + ' ' if compression else ''}file: {reason}")
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        mistakes.add("encoding", f"byte 0x{raw[error.start]:02x}", "UTF-8 text", line)
        return None


def _decompressed(path: Path, compression: str) -> bytes:
    """Raises OSError where the file is cut short or is not what its name says."""
    import pyarrow

    with pyarrow.input_stream(str(path), compression=compression) as stream:
        content: bytes = stream.read()
    if not content and path.stat().st_size == 0:
        raise OSError("it is empty")
    return content


def _table(text: str, delimiter: str, mistakes: MistakeList) -> Iterator[RawRow]:
    """Rows of CSV or TSV below its line of column names. Every cell is text, and an empty one is null."""
    limit = csv.field_size_limit(
        sys.maxsize
    )  # 128 KiB are less than a long document; of the whole process, so put back
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    number, line = 0, 1
    try:
        for cells in reader:
            if not names and cells:
                names = cells
                twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
                if twice is not None:
                    mistakes.add("columns", twice, "names that each stand once", line)
                    return
            elif cells:
                number += 1
                if len(cells) != len(names):
                    allowed = f"{len(names)} cells, as the first line names: {', '.join(names)}"
                    mistakes.add("row", f"{len(cells)} cells", allowed, line)
                else:
                    yield RawRow(number, line, {n: cell or None for n, cell in zip(names, cells, strict=True)})
            line = reader.line_num + 1
    except csv.Error as error:
        mistakes.add("row", "", f"cells that are quoted whole or not at all: {error}", line)
    finally:
        csv.field_size_limit(limit)


def _json_lines(text: str, mistakes: MistakeList) -> Iterator[RawRow]:
    number = 0
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        number += 1
        try:
            yield RawRow(number, line, json.loads(content))
        except (ValueError, RecursionError) as error:
            mistakes.add("json", _around(content, _pos(error)), f"one JSON object a line; {_reason(error)}", line)


def _json_list(text: str, mistakes: MistakeList) -> Iterator[RawRow]:
    """Rows of a JSON list, each with the line it starts on."""
    decoder = json.JSONDecoder()
    at, line, counted, number = text.index("[") + 1, 1, 0, 0
    while True:
        at = _skip(text, at)
        if text[at : at + 1] == "]" and _skip(text, at + 1) == len(text):
            return
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            pos = _pos(error, at)
            line = text.count("\n", 0, pos) + 1
            mistakes.add("json", _around(text, pos), f"a JSON list of objects; {_reason(error)}", line)
            return
        number += 1
        yield RawRow(number, line, value)
        at = _skip(text, at)
        if text[at : at + 1] not in (",", "]"):
            mistakes.add("json", _around(text, at), "a comma or the end of the list", text.count("\n", 0, at) + 1)
            return
        at += text[at] == ","


def _skip(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _pos(error: Exception, start: int = 0) -> int:
    return error.pos if isinstance(error, json.JSONDecodeError) else start


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _around(text: str, pos: int) -> str:
    return text[max(0, pos - 20) : pos + 20].strip()
