"""Reading tokenised rows that a `RowsRef` names."""

from __future__ import annotations

from safetensors import SafetensorError

from mlora_ray.data.tokenized_rows import Rows, from_bytes, rows_sha256
from mlora_ray.errors import StorageError
from mlora_ray.store.files import read_file
from mlora_ray.types import RowsRef


def read_rows(ref: RowsRef) -> Rows:
    """The rows of `ref`. Raises StorageError when they are missing or not the ones it was made for."""
    try:
        rows = from_bytes(read_file(ref.uri))
    except (SafetensorError, KeyError) as error:
        raise StorageError(f"{ref.uri}: not a rows file ({error})") from error
    if rows_sha256(rows) != ref.sha256:
        raise StorageError(f"{ref.uri}: the rows are not those of {ref.source}: their sha256 differs")
    return rows


def first_rows(rows: Rows, count: int) -> Rows:
    """The first `count` rows, or all of them."""
    if rows.num_rows <= count:
        return rows
    end = int(rows.offsets[count])
    return Rows(rows.tokens[:end], rows.is_target[:end], rows.offsets[: count + 1])
