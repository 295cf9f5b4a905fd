"""Rows of a file -> token ids and which of them are targets of the loss.

Formats, by the columns of the first row: `messages` | `prompt` + `completion` | `instruction` (+ `input`) + `output` |
`text`. The base's chat template renders all but `text`; the loss then falls on what the assistant says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlora_ray.data.chat_template import Span, has_generation_marks
from mlora_ray.data.readers import read_rows
from mlora_ray.data.rendering import Rendered, TargetRule, render
from mlora_ray.data.row_formats import (
    HOW_TO_MAP,
    KNOWN_FORMATS,
    Row,
    RowError,
    checked,
    format_of,
    missing_columns,
    renamed,
    unread,
)
from mlora_ray.data.sources import ERROR, MARKED, TRUNCATE, DataFile, RowSettings
from mlora_ray.data.text_files import MistakeList, RawRow
from mlora_ray.data.tokenized_rows import Rows, make_rows
from mlora_ray.errors import InputError, Mistake

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenizedRow(NamedTuple):
    raw: RawRow
    ids: list[int]
    is_target: list[bool]
    is_straddling: bool  # a token begins before a target and reaches into it; it is a target
    had_start: bool  # its text began with the token that the tokenizer puts first: there is one of it


class Prepared(NamedTuple):
    """The rows of one file, and what became of the others. `overlong`: why rows were dropped, if any were."""

    rows: Rows
    num_read: int
    num_truncated: int
    num_dropped: int
    num_straddling: int
    num_with_start: int
    unread: tuple[str, ...]  # columns and fields of messages that nothing reads
    overlong: Mistake | None


def prepare_rows(file: DataFile, tokenizer: PreTrainedTokenizerBase, settings: RowSettings) -> Prepared:
    """Tokenised rows of `file`, cut at the end to `max_length` tokens; none where all are overlong.

    Raises InputError with every mistake.
    """
    if not tokenizer.is_fast:
        allowed = "a base with a fast tokenizer (tokenizer.json)"
        raise InputError([Mistake(file=str(file), field="tokenizer", value=type(tokenizer).__name__, allowed=allowed)])
    raw = read_rows(file)
    mistakes = MistakeList(file.place)
    for field, value, allowed in missing_columns((row.value for row in raw), file):
        mistakes.add(field, value, allowed)
    mistakes.raise_any()
    raw = [row._replace(value=renamed(row.value, file)) for row in raw]
    row_format = _format_of_file(raw[0], file, tokenizer, settings, mistakes)
    kept, rendered = _render_all(raw, file, row_format, tokenizer, settings, mistakes)
    # A template writes its own first token; text without one gets the tokenizer's (Llama's <s>), as at inference.
    add_special = row_format == "text" or not tokenizer.chat_template
    tokenized = _tokenise(kept, rendered, tokenizer, add_special)
    template = str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
    columns = unread((row.value for row in kept if isinstance(row.value, dict)), row_format, template)
    prepared = _cut(tokenized, settings, columns, mistakes)
    mistakes.raise_any()
    return prepared


def _format_of_file(
    first: RawRow, file: DataFile, tokenizer: PreTrainedTokenizerBase, settings: RowSettings, mistakes: MistakeList
) -> str:
    """The format of the first row, which all others share. Raises InputError."""
    found = format_of(first.value, file)
    if found is None:
        is_row = isinstance(first.value, dict)
        shown = ", ".join(map(str, first.value)) if isinstance(first.value, dict) else first.value
        allowed = f"{KNOWN_FORMATS}; {HOW_TO_MAP}" if is_row else f"an object with the columns {KNOWN_FORMATS}"
        mistakes.add(_field(first, "fields" if is_row else "row"), shown, allowed, first.line)
    elif settings.assistant_only_loss == MARKED and (found == "text" or not has_generation_marks(tokenizer)):
        what = "rows of a conversation" if found == "text" else "a chat template with {% generation %} marks"
        allowed = f"{what}, for true; turns finds the assistant's turns without marks, false is the whole conversation"
        mistakes.add("assistant_only_loss", "true", allowed)
    mistakes.raise_any()
    return str(found)


def _render_all(
    raw: list[RawRow],
    file: DataFile,
    row_format: str,
    tokenizer: PreTrainedTokenizerBase,
    settings: RowSettings,
    mistakes: MistakeList,
) -> tuple[list[RawRow], list[Rendered]]:
    """The rows without a mistake, and their text."""
    rule = TargetRule(settings.completion_only_loss, settings.assistant_only_loss)
    kept: list[RawRow] = []
    rendered: list[Rendered] = []
    for row in raw:
        try:
            value: Row = checked(row.value, row_format, file)
            rendered.append(render(value, row_format, tokenizer, rule))
            kept.append(row)
        except RowError as error:
            mistakes.add(_field(row, error.field), error.value, error.allowed, row.line)
    return kept, rendered


def _field(row: RawRow, field: str) -> str:
    return field if row.line else f"row {row.number}: {field}"


def _tokenise(
    raw: Sequence[RawRow], rendered: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase, add_special: bool
) -> list[TokenizedRow]:
    """Ids and targets of every row. A token is a target when part of it is inside a span."""
    if not rendered:
        return []
    encoded = tokenizer(
        [r.text for r in rendered],
        add_special_tokens=add_special,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    out: list[TokenizedRow] = []
    for row, text, ids, offsets in zip(raw, rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if add_special and len(ids) > 1 and ids[-1] == ids[-2] == tokenizer.eos_token_id:
            ids, offsets = ids[:-1], offsets[:-1]
        had_start = len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id and offsets[0][0] == offsets[0][1]
        if had_start:
            ids, offsets = ids[1:], offsets[1:]
        targets = [True] * len(ids) if text.spans is None else _inside(text.spans, offsets)
        straddling = text.spans is not None and _straddles(text.spans, offsets)
        out.append(TokenizedRow(row, ids, targets, straddling, had_start))
    return out


def _inside(spans: list[Span], offsets: list[tuple[int, int]]) -> list[bool]:
    """Whether each token reaches into a span. A token without width (trimmed spaces) goes with the one before."""
    out: list[bool] = []
    at = 0
    for start, end in offsets:
        while at < len(spans) - 1 and start >= spans[at][1]:
            at += 1
        is_in = start < spans[at][1] and end > spans[at][0]
        out.append(is_in if end > start else bool(out and out[-1]))
    return out


def _straddles(spans: list[Span], offsets: list[tuple[int, int]]) -> bool:
    """Whether a token begins before a span and reaches into it.

    Some tokenizers leave the space out of the offsets of a token that begins with one: the gap is the token's too.
    """
    starts = {start for start, _ in spans if start}
    before = 0
    for start, end in offsets:
        if end > start and any(at in starts for at in range(min(start, before) + 1, end)):
            return True
        before = max(before, end)
    return False


def _cut(
    tokenized: list[TokenizedRow], settings: RowSettings, columns: tuple[str, ...], mistakes: MistakeList
) -> Prepared:
    """Cut rows at the end. A row's first token is never a target; a row that has no other is a mistake.

    A row that only `max_length` leaves without one is dropped, kept or a mistake, as `overlong` says.
    """
    max_length = settings.max_length
    kept: list[TokenizedRow] = []
    emptied: list[tuple[TokenizedRow, int]] = []  # row, its first target's token from 1
    for row in tokenized:
        first = next((i for i, t in enumerate(row.is_target) if t and i), None)
        if first is None:
            allowed = f"one with a target: row has no target; the row has {len(row.ids)} tokens"
            mistakes.add(_field(row.raw, "row"), "", allowed, row.raw.line)
            continue
        if first >= max_length:
            emptied.append((row, first + 1))
        if first < max_length or settings.overlong == TRUNCATE:
            kept.append(row)
    overlong = _overlong(emptied, len(tokenized), max_length, mistakes.file) if emptied else None
    if overlong and settings.overlong == ERROR:
        mistakes.add(overlong.field, overlong.value, overlong.allowed, overlong.line)
    return Prepared(
        rows=make_rows([(row.ids[:max_length], row.is_target[:max_length]) for row in kept]),
        num_read=len(tokenized),
        num_truncated=sum(len(row.ids) > max_length for row in kept),
        num_dropped=len(tokenized) - len(kept),
        num_straddling=sum(row.is_straddling for row in kept),
        num_with_start=sum(row.had_start for row in kept),
        unread=columns,
        overlong=overlong,
    )


def _overlong(emptied: list[tuple[TokenizedRow, int]], num_rows: int, max_length: int, file: str) -> Mistake:
    """Rows that a longer `max_length` would mend, as one mistake with their number."""
    row, token = emptied[0]
    its = f"its first is token {token}; the row has {len(row.ids)} tokens"
    many = f"{len(emptied)} of {num_rows} rows have no target: in row {row.raw.number} {its}"
    allowed = f"larger: row has no target: {its}" if len(emptied) == 1 else f"larger: {many}"
    return Mistake(file=file, field="max_length", value=str(max_length), allowed=allowed, line=row.raw.line)
