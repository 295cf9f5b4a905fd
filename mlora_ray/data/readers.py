"""Reading rows from JSONL, a JSON list, Parquet or a Hub data set. Every mistake names the file and the line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlora_ray.errors import InputError, Mistake

HUB_PREFIX = "hub:"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
MAX_SHOWN = 20
HUB_TIMEOUT_S = 3.0
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
        last = (
            [Mistake(file=self.file, field=f"and {more} more", value="", allowed="mended after these")] if more else []
        )
        raise InputError(self.shown + last)


def read_rows(source: str) -> list[RawRow]:
    """All rows of `source`: a path, or `hub:owner/name` with an optional `#split`. Raises InputError."""
    mistakes = MistakeList(source)
    rows: list[RawRow] = []
    if source.startswith(HUB_PREFIX):
        rows = _read_hub(source.removeprefix(HUB_PREFIX), mistakes)
    elif not (path := Path(source)).is_file():
        mistakes.add("file", "", "a readable file; there is none of this name")
    elif path.suffix == ".parquet":
        rows = _read_parquet(path, mistakes)
    elif path.suffix in SUFFIXES:
        text = _read_text(path, mistakes)
        if text is not None:
            read = _json_list if path.suffix == ".json" and text.lstrip().startswith("[") else _json_lines
            rows = list(read(text, mistakes))
    else:
        mistakes.add("file", path.suffix, f"one of {', '.join(SUFFIXES)}")
    if not rows and not mistakes.count:
        mistakes.add("file", "", "at least one row; it is empty")
    mistakes.raise_any()
    return rows


def _read_text(path: Path, mistakes: MistakeList) -> str | None:
    try:
        raw = path.read_bytes()
    except OSError as error:
        mistakes.add("file", "", f"a readable file: {error.strerror}")
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        mistakes.add("encoding", f"byte 0x{raw[error.start]:02x}", "UTF-8 text", line)
        return None


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


def _read_parquet(path: Path, mistakes: MistakeList) -> list[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        mistakes.add("file", "", f"a Parquet file: {str(error).splitlines()[0]}")
        return []
    return [RawRow(i, 0, _without_nulls(row)) for i, row in enumerate(rows, start=1)]


def _is_hub_reachable() -> bool:
    """Whether the Hub answers at all within seconds, through a proxy where one is set."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
    return True


def _read_hub(name: str, mistakes: MistakeList) -> list[RawRow]:
    import datasets

    repo, _, split = name.partition("#")
    if not (datasets.config.HF_HUB_OFFLINE or Path(repo).is_dir() or _is_hub_reachable()):
        datasets.config.HF_HUB_OFFLINE = True  # the cache at once, in place of retries for half a minute
    try:
        rows = datasets.load_dataset(repo, split=split or "train")
        return [RawRow(i, 0, _without_nulls(row)) for i, row in enumerate(rows, start=1)]
    except (OSError, ValueError, RuntimeError, LookupError) as error:  # not found, no network, no such split
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        fix = "a file, or a Hub data set (owner/name, owner/name#split) that is in the cache or reachable"
        mistakes.add("data set", repo, f"{fix}: {reason}")
        return []


def _without_nulls(row: object) -> object:
    """A column-wise file has every column in every row: a null is a field that was not written."""
    return {k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else row
