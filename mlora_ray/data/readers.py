"""Reading the rows of a file, a folder or a Hub data set. Every mistake names the file and the line.

One rule for all of them: null is absent.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlora_ray.data.sources import COMPRESSIONS, FORMATS, HUB_PREFIX, DataFile, format_of_name
from mlora_ray.data.text_files import MistakeList, RawRow, read_text_rows

if TYPE_CHECKING:
    from datasets import Dataset

HUB_TIMEOUT_S = 3.0
DEFAULT_SPLIT = "train"
MAX_DEPTH = 100  # of values within values; templates and errors go through them by recursion


def read_rows(file: DataFile) -> list[RawRow]:
    """The rows of `file` that its split and slice take, nulls left out. Raises InputError."""
    mistakes = MistakeList(file.place)
    rows: list[RawRow] = []
    path = Path(file.path)
    if file.is_hub:
        rows = _read_hub(file, mistakes)
    elif path.is_dir():
        rows = _read_folder(file, mistakes)
    elif not path.is_file():
        mistakes.add("file", "", "a readable file; there is none of this name")
    elif file.split or file.subset:
        named = file.split or file.subset
        mistakes.add("split", named, "a slice such as [:90%]; a file has no splits, a folder or a data set may")
    else:
        rows = _part_of(_read_file(path, mistakes), file.part, mistakes)
    if not rows and not mistakes.count:
        mistakes.add("file", "", "at least one row; it is empty")
    found = [row._replace(value=_without_nulls(row, mistakes)) for row in rows]
    mistakes.raise_any()
    return found


def without_nulls(value: object, depth: int = 0) -> object:
    """`value` with every null field of every object left out: a column-wise file has all fields in every row.

    Raises RecursionError below `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        return {k: without_nulls(v, depth + 1) for k, v in value.items() if v is not None}
    return [without_nulls(v, depth + 1) for v in value] if isinstance(value, list) else value


def _without_nulls(row: RawRow, mistakes: MistakeList) -> object:
    try:
        return without_nulls(row.value)
    except RecursionError:
        field = "row" if row.line else f"row {row.number}"
        mistakes.add(field, "", f"values within each other at most {MAX_DEPTH} deep", row.line)
        return None


def _read_file(path: Path, mistakes: MistakeList) -> list[RawRow]:
    found = format_of_name(path.name)
    if found is None:
        allowed = f"a name that ends in {', '.join(FORMATS)}, and all but Parquet then in {', '.join(COMPRESSIONS)}"
        mistakes.add("file", path.suffix or path.name, allowed)
        return []
    suffix, compression = found
    if suffix == ".parquet":
        return _read_parquet(path, mistakes)
    return read_text_rows(path, suffix, compression, mistakes)


def _part_of(rows: list[RawRow], part: str, mistakes: MistakeList) -> list[RawRow]:
    if not part or not rows:
        return rows
    start, end = _bounds(part, len(rows), mistakes)
    return rows[start:end]


def _bounds(part: str, num_rows: int, mistakes: MistakeList) -> tuple[int, int]:
    """The rows [start, end) that a slice takes, rounded as `datasets` rounds."""
    from datasets import ReadInstruction

    try:
        (taken,) = ReadInstruction.from_spec(f"rows[{part}]").to_absolute({"rows": num_rows})
    except (ValueError, AssertionError) as error:
        mistakes.add("split", f"[{part}]", f"a slice such as [:90%] or [100:200]: {error}")
        return 0, 0
    if taken.from_ >= taken.to:
        mistakes.add("split", f"[{part}]", f"a slice with at least one of the {num_rows} rows")
    return taken.from_, taken.to


def _read_parquet(path: Path, mistakes: MistakeList) -> list[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        mistakes.add("file", "", f"a Parquet file: {str(error).splitlines()[0]}")
        return []
    return [RawRow(i, 0, row) for i, row in enumerate(rows, start=1)]


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


def _read_hub(file: DataFile, mistakes: MistakeList) -> list[RawRow]:
    import datasets

    repo = file.path.removeprefix(HUB_PREFIX)
    if not Path(repo).is_absolute() and Path(repo).exists():  # `datasets` would read it in place of the Hub's
        allowed = f"a Hub data set; the working directory has {repo}, which would be read instead: start elsewhere"
        mistakes.add("data set", repo, allowed)
        return []
    if not (datasets.config.HF_HUB_OFFLINE or Path(repo).is_dir() or _is_hub_reachable()):
        datasets.config.HF_HUB_OFFLINE = True  # the cache at once, in place of retries for half a minute
    fix = "a file, or a Hub data set (owner/name, owner/name[split]) that is in the cache or reachable"
    return _loaded(file, repo, fix, mistakes)


def _read_folder(file: DataFile, mistakes: MistakeList) -> list[RawRow]:
    fix = "a folder of data files, or one saved by save_to_disk, with this split"
    return _loaded(file, file.path, fix, mistakes)


def _loaded(file: DataFile, place: str, fix: str, mistakes: MistakeList) -> list[RawRow]:
    import pyarrow

    try:
        rows = _dataset(file, place)
        start, end = _bounds(file.part, len(rows), mistakes) if file.part else (0, len(rows))
        return [RawRow(i, 0, row) for i, row in enumerate(rows.select(range(start, end)), start=start + 1)]
    # Not found, no network, no such split, files that are none, a column whose library is missing.
    except (OSError, ValueError, RuntimeError, LookupError, ImportError, pyarrow.ArrowException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        mistakes.add("data set", str(file).removeprefix(HUB_PREFIX), f"{fix}: {reason}")
        return []


def _dataset(file: DataFile, place: str) -> Dataset:
    """One split of a folder that `save_to_disk` wrote, of a folder of data files, or of the Hub."""
    import datasets

    saved = Path(place)
    if (saved / "state.json").is_file() and not file.split:
        return datasets.load_from_disk(place)
    if (saved / "state.json").is_file():
        raise ValueError("it was saved without splits; a slice such as [:90%] takes a part")
    if (saved / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(place)
        split = file.split or DEFAULT_SPLIT
        if split not in splits:
            raise ValueError(f"split {split!r} is none of {', '.join(map(str, splits))}")
        return splits[split]
    return datasets.load_dataset(place, file.subset or None, split=file.split or DEFAULT_SPLIT)
