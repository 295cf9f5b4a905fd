"""Every kind of file, compressed or not, a link, a folder or a slice: the same rows, or a mistake that says where."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.data.readers import read_rows
from mlora_ray.data.sources import DataFile
from mlora_ray.data.text_files import RawRow
from mlora_ray.errors import InputError, Mistake

ROWS = [
    {"prompt": "plus, 1 and 1", "completion": "2"},
    {"prompt": 'say "é語"\nnow', "completion": '"é語"'},
    {"prompt": "null", "completion": "NA"},
]
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def table(delimiter: str) -> bytes:
    lines = [",".join(ROWS[0])] if delimiter == "," else ["\t".join(ROWS[0])]
    lines += [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row.values()) for row in ROWS]
    return ("\r\n".join(lines) + "\r\n").encode("utf-8-sig")


def zstd(data: bytes) -> bytes:
    packed: bytes = pyarrow.compress(data, codec="zstd", asbytes=True)
    return packed


def values(rows: list[RawRow]) -> list[object]:
    return [row.value for row in rows]


def mistakes_of(path: Path, **fields: str) -> list[Mistake]:
    with pytest.raises(InputError) as caught:
        read_rows(DataFile(path=str(path), **fields))  # type: ignore[arg-type]
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", JSON_LINES),
        ("X.JSONL", JSON_LINES),
        ("x.ndjson.gz", gzip.compress(JSON_LINES, mtime=0)),
        ("x.jsonl.gz", gzip.compress(JSON_LINES[:50], mtime=0) + gzip.compress(JSON_LINES[50:], mtime=0)),
        ("x.jsonl.zst", zstd(JSON_LINES)),
        ("x.json.zst", zstd(json.dumps(ROWS).encode())),
        ("x.jsonl.bz2", bz2.compress(JSON_LINES)),
        ("x.csv", table(",")),
        ("x.csv.gz", gzip.compress(table(","), mtime=0)),
        ("x.tsv", table("\t")),
        ("x.tsv.zst", zstd(table("\t"))),
    ],
)
def test_the_same_rows_from_every_kind_of_text(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert values(read_rows(DataFile(path=str(tmp_path / name)))) == ROWS


def test_the_name_that_was_written_decides_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(JSON_LINES)
    (tmp_path / "other.csv").write_bytes(gzip.compress(JSON_LINES, mtime=0))
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "blob")
    (tmp_path / "train.jsonl.gz").symlink_to("other.csv")
    for name in ("train.jsonl", "train.jsonl.gz"):
        assert values(read_rows(DataFile(path=str(tmp_path / name)))) == ROWS


def test_rows_of_a_table_have_the_line_they_begin_on(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('prompt,completion\n"a\nb",c\n\nd,"e\n\nf"\ng,h\n')
    assert [(row.number, row.line) for row in read_rows(DataFile(path=str(path)))] == [(1, 2), (2, 5), (3, 8)]


def test_an_empty_cell_is_null_and_a_long_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    long = "x" * (csv.field_size_limit() + 1 if csv.field_size_limit() < 2**20 else 200_000)
    path.write_text(f'instruction,input,output\na,,b\n"c","",{long}\n')
    assert values(read_rows(DataFile(path=str(path)))) == [
        {"instruction": "a", "output": "b"},
        {"instruction": "c", "output": long},
    ]


@pytest.mark.parametrize(
    ("text", "line", "field", "allowed"),
    [
        ("a,b\n1,2\n3\n", 3, "row", "2 cells, as the first line names: a, b"),
        ("a,b\n1,2,3\n", 2, "row", "2 cells"),
        ("a,b,a\n1,2,3\n", 1, "columns", "each column name once"),
        ('a,b\n1,2\n"3"x,4\n', 3, "row", "quoted whole or not at all"),
        ('a,b\n1,2\n"3,4\n', 3, "row", "unexpected end of data"),
        ("a,b\n", 0, "file", "at least one row"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, text: str, line: int, field: str, allowed: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    (found,) = mistakes_of(path)
    assert (found.file, found.line, found.field) == (str(path), line, field)
    assert allowed in found.allowed


@pytest.mark.parametrize(
    ("name", "content", "allowed"),
    [
        ("x.jsonl.gz", gzip.compress(JSON_LINES, mtime=0)[:-12], "a readable gzip file"),
        ("x.jsonl.gz", JSON_LINES, "a readable gzip file"),
        ("x.jsonl.zst", JSON_LINES, "a readable zstd file"),
        ("x.jsonl.gz", b"", "a readable gzip file: it is empty"),
        ("x.parquet.gz", gzip.compress(b"PAR1", mtime=0), "a name that ends in"),
        ("x.gz", gzip.compress(JSON_LINES, mtime=0), "a name that ends in"),
        ("x", JSON_LINES, "a name that ends in .jsonl, .ndjson, .json, .csv, .tsv, .parquet"),
    ],
)
def test_files_that_are_not_what_their_name_says(tmp_path: Path, name: str, content: bytes, allowed: str) -> None:
    (tmp_path / name).write_bytes(content)
    (found,) = mistakes_of(tmp_path / name)
    assert (found.file, found.field) == (str(tmp_path / name), "file")
    assert allowed in found.allowed


def test_null_is_absent_in_every_format(tmp_path: Path) -> None:
    import datasets

    rows = [
        {"messages": None, "prompt": "a", "completion": "b", "note": None},
        {"messages": None, "prompt": "c", "completion": "d", "note": "x"},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.json").write_text(json.dumps(rows))
    (tmp_path / "x.csv").write_text("messages,prompt,completion,note\n,a,b,\n,c,d,x\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    expected = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d", "note": "x"}]
    for name in ("x.jsonl", "x.json", "x.csv", "x.parquet", "saved"):
        assert values(read_rows(DataFile(path=str(tmp_path / name)))) == expected


def test_null_is_absent_within_messages_too(tmp_path: Path) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1, "b": None}}}
    rows = [{"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}]
    (tmp_path / "x.jsonl").write_text(json.dumps(rows[0]) + "\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    expected = [
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}]}
    ]
    for name in ("x.jsonl", "x.parquet"):
        assert values(read_rows(DataFile(path=str(tmp_path / name)))) == expected


def test_values_nested_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    deep = "[" * 300 + "]" * 300
    path.write_text(f'{{"text": "a"}}\n{{"text": {deep}}}\n')
    (found,) = mistakes_of(path)
    assert (found.line, found.allowed) == (2, "values within each other at most 100 deep")


def bounds(limit: int) -> st.SearchStrategy[str]:
    return st.one_of(st.just(""), st.integers(-limit, limit).map(str), st.integers(-99, 99).map(lambda p: f"{p}%"))


@given(st.integers(1, 60), bounds(70), bounds(70))
@settings(max_examples=60, deadline=None)
def test_a_slice_takes_the_rows_that_datasets_takes(
    tmp_path_factory: pytest.TempPathFactory, num_rows: int, start: str, end: str
) -> None:
    import datasets

    folder = tmp_path_factory.mktemp("slices")
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(num_rows)))
    if {s.endswith("%") for s in (start, end) if s} == {True, False}:
        start = start.rstrip("%")  # one unit on both sides
        end = end.rstrip("%")
    instruction = datasets.ReadInstruction.from_spec(f"all[{start}:{end}]")
    (taken,) = instruction.to_absolute({"all": num_rows})
    expected = list(range(taken.from_, taken.to))
    file = DataFile(path=str(path), part=f"{start}:{end}")
    if not expected:
        with pytest.raises(InputError, match=f"at least one of the {num_rows} rows"):
            read_rows(file)
        return
    assert [(row.line, row.value) for row in read_rows(file)] == [(i + 1, {"text": str(i)}) for i in expected]


def test_ninety_percent_and_the_rest_are_all_rows_once(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(15)))
    head, rest = (values(read_rows(DataFile(path=str(path), part=part))) for part in (":90%", "90%:"))
    assert (len(head), len(rest)) == (14, 1)  # 13.5 rounds to the even number, as in `datasets`
    assert head + rest == [{"text": str(i)} for i in range(15)]


def test_a_file_has_no_splits_and_a_slice_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(JSON_LINES)
    (found,) = mistakes_of(path, split="test")
    assert (found.field, found.value) == ("split", "test")
    assert "a slice such as [:90%]" in found.allowed
    (found,) = mistakes_of(path, part="150%:")
    assert (found.file, found.field, found.value) == (str(path), "split", "[150%:]")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`one` is a saved Dataset, `two` a saved DatasetDict, `files` a folder of data files."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    both = {
        name: datasets.Dataset.from_list([{"text": f"{name} {i}"} for i in range(10)]) for name in ("train", "test")
    }
    both["train"].save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "two"))
    (tmp_path / "files").mkdir()
    for name, rows in both.items():
        (tmp_path / "files" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("name", ["one", "two", "files"])
def test_folders_and_their_splits(folders: Path, name: str) -> None:
    rows = read_rows(DataFile(path=str(folders / name)))
    assert values(rows) == [{"text": f"train {i}"} for i in range(10)]
    part = read_rows(DataFile(path=str(folders / name), part="80%:"))
    assert [(row.number, row.value) for row in part] == [(9, {"text": "train 8"}), (10, {"text": "train 9"})]
    if name == "one":
        assert "saved without splits" in str(mistakes_of(folders / name, split="test")[0])
        return
    test = read_rows(DataFile(path=str(folders / name), split="test", part=":1"))
    assert values(test) == [{"text": "test 0"}]
    (found,) = mistakes_of(folders / name, split="dev")
    assert found.field == "data set"
    assert "train" in found.allowed
    assert "test" in found.allowed


def test_an_empty_folder_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (found,) = mistakes_of(tmp_path / "empty")
    assert "a folder of data files, or one saved by save_to_disk" in found.allowed


def test_a_folder_of_the_working_directory_never_stands_for_the_hub(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "data").mkdir()
    os.rename(folders / "files", folders / "data" / "set")
    monkeypatch.chdir(folders)
    with pytest.raises(InputError, match="the working directory has data/set"):
        read_rows(DataFile(path="hub:data/set"))
