"""Tokenised rows: flat arrays with offsets, stored as safetensors and named by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load, save


class Rows(NamedTuple):
    """N tokens in R rows. Row i is `tokens[offsets[i]:offsets[i + 1]]`."""

    tokens: np.ndarray  # int32 [N]
    is_target: np.ndarray  # bool [N]: True where predicting this token counts in the loss
    offsets: np.ndarray  # int64 [R + 1]

    @property
    def num_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 [R]."""
        return np.diff(self.offsets)

    def num_targets(self) -> np.ndarray:
        """Targets of each row, int64 [R]. A row's first token has nothing before it and never counts."""
        counted = self.is_target.copy()
        counted[self.offsets[:-1][self.lengths > 0]] = False
        ends = np.concatenate([[0], np.cumsum(counted)])
        return ends[self.offsets[1:]] - ends[self.offsets[:-1]]


def make_rows(pairs: list[tuple[list[int], list[bool]]]) -> Rows:
    """Rows from `(token ids, is_target)` of each row."""
    offsets = np.cumsum([0] + [len(tokens) for tokens, _ in pairs], dtype=np.int64)
    flat = [t for tokens, _ in pairs for t in tokens]
    target = [t for _, targets in pairs for t in targets]
    return Rows(np.asarray(flat, np.int32), np.asarray(target, bool), offsets)


def take_rows(rows: Rows, index: np.ndarray) -> Rows:
    """The rows `index`, int64 [I], in that order; a row may come more than once."""
    lengths = rows.lengths[index]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    at = np.arange(offsets[-1]) + np.repeat(rows.offsets[index] - offsets[:-1], lengths)
    return Rows(rows.tokens[at], rows.is_target[at], offsets)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after the other."""
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))]).astype(np.int64)
    return Rows(
        np.concatenate([part.tokens for part in parts]), np.concatenate([part.is_target for part in parts]), offsets
    )


def to_bytes(rows: Rows) -> bytes:
    return save({"tokens": rows.tokens, "is_target": rows.is_target.astype(np.uint8), "offsets": rows.offsets})


def from_bytes(data: bytes) -> Rows:
    held = load(data)
    return Rows(held["tokens"], held["is_target"].astype(bool), held["offsets"])


def rows_sha256(rows: Rows) -> str:
    """Hash of the content, independent of the file format."""
    digest = hashlib.sha256()
    for array in (rows.tokens, rows.is_target.astype(np.uint8), rows.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def token_outside(rows: Rows, vocabulary: int) -> int | None:
    """The first token id that is not within 0 to `vocabulary` - 1, if there is one."""
    outside = rows.tokens[(rows.tokens < 0) | (rows.tokens >= vocabulary)]
    return int(outside[0]) if len(outside) else None
