"""Rows of a file -> token ids and which of them are targets of the loss.

Formats, by the fields of the first row: `messages` | `prompt` + `completion` | `instruction` (+ `input`) + `output` |
`text`. The base's chat template renders all but `text`; the loss then falls on what the assistant says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlora_ray.data.chat_template import KNOWN_FORMATS, Rendered, RowError, Span, format_of, render
from mlora_ray.data.readers import MistakeList, RawRow, read_rows
from mlora_ray.data.tokenized_rows import Rows, make_rows
from mlora_ray.errors import InputError, Mistake

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[list[int], list[bool]]  # token ids, is_target


class Prepared(NamedTuple):
    rows: Rows
    num_truncated: int


def prepare_rows(
    entry_path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    completion_only_loss: bool = True,
) -> Prepared:
    """Tokenised rows of `entry_path`, cut at the end to `max_length` tokens. Raises InputError with every mistake."""
    if not tokenizer.is_fast:
        allowed = "a base with a fast tokenizer (tokenizer.json)"
        raise InputError([Mistake(file=entry_path, field="tokenizer", value=type(tokenizer).__name__, allowed=allowed)])
    raw = read_rows(entry_path)
    mistakes = MistakeList(entry_path)
    kept, rendered = _render_all(raw, tokenizer, mistakes)
    pairs = _tokenise(rendered, tokenizer, everything=not completion_only_loss)
    prepared = _cut(pairs, kept, max_length, mistakes)
    mistakes.raise_any()
    return prepared


def _render_all(
    raw: list[RawRow], tokenizer: PreTrainedTokenizerBase, mistakes: MistakeList
) -> tuple[list[RawRow], list[Rendered]]:
    """The rows without a mistake, and their text."""
    first = format_of(raw[0].value)
    kept: list[RawRow] = []
    rendered: list[Rendered] = []
    for row in raw:
        try:
            rendered.append(render(_checked(row.value, first), str(first), tokenizer))
            kept.append(row)
        except RowError as error:
            mistakes.add(_field(row, error.field), error.value, error.allowed, row.line)
    return kept, rendered


def _checked(value: object, first: str | None) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RowError("row", value, f"an object with the fields {KNOWN_FORMATS}")
    found = format_of(value, first)
    shown = ", ".join(map(str, value))
    if found is None:
        raise RowError("fields", shown, KNOWN_FORMATS)
    if found != first:
        raise RowError("fields", shown, f"{first}, the format of the first row" if first else "one format in a file")
    return value


def _field(row: RawRow, field: str) -> str:
    return field if row.line else f"row {row.number}: {field}"


def _tokenise(rendered: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase, *, everything: bool) -> list[Pair]:
    """Ids and targets of every row. A token is a target when it starts inside a span."""
    if not rendered:
        return []
    # A template writes its own first token; text without one gets the tokenizer's (Llama's <s>), as at inference.
    add_special = rendered[0].spans is None or not tokenizer.chat_template
    encoded = tokenizer(
        [r.text for r in rendered],
        add_special_tokens=add_special,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    pairs: list[Pair] = []
    for row, ids, offsets in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if add_special and len(ids) > 1 and ids[-1] == ids[-2] == tokenizer.eos_token_id:
            ids, offsets = ids[:-1], offsets[:-1]
        targets = [True] * len(ids) if everything or row.spans is None else _inside(row.spans, offsets)
        pairs.append((ids, targets))
    return pairs


def _inside(spans: list[Span], offsets: list[tuple[int, int]]) -> list[bool]:
    """Whether each token starts inside a span. A token without width (trimmed spaces) goes with the one before."""
    out: list[bool] = []
    at = 0
    for start, end in offsets:
        while at < len(spans) - 1 and start >= spans[at][1]:
            at += 1
        is_in = spans[at][0] <= start < spans[at][1]
        out.append(is_in if end > start else bool(out and out[-1]))
    return out


def _cut(pairs: list[Pair], raw: list[RawRow], max_length: int, mistakes: MistakeList) -> Prepared:
    """Cut rows at the end. A row that keeps no target is a mistake; a row's first token is never one.

    Rows that a longer `max_length` would mend are one mistake with their number.
    """
    kept: list[Pair] = []
    emptied: list[tuple[RawRow, int, int]] = []  # row, its first target's token, its tokens; both from 1
    num_truncated = 0
    for (ids, targets), row in zip(pairs, raw, strict=True):
        if len(ids) > max_length:
            num_truncated += 1
        first = next((i for i, t in enumerate(targets) if t and i), None)
        if first is None:
            mistakes.add(
                _field(row, "row"), "", f"one with a target: row has no target; the row has {len(ids)} tokens", row.line
            )
        elif first >= max_length:
            emptied.append((row, first + 1, len(ids)))
        else:
            kept.append((ids[:max_length], targets[:max_length]))
    if emptied:
        row, token, num_tokens = emptied[0]
        its = f"its first is token {token}; the row has {num_tokens} tokens"
        who = "row has no target" if len(emptied) == 1 else f"{len(emptied)} of {len(raw)} rows have no target: in row"
        why = f"{who}: {its}" if len(emptied) == 1 else f"{who} {row.number} {its}"
        mistakes.add("max_length", str(max_length), f"larger: {why}", row.line)
    return Prepared(make_rows(kept), num_truncated)
