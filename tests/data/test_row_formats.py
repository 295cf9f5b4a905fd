"""Which columns make a row: those of the formats, those the job file names, and what is said of all others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlora_ray.bases.tiny_tokenizer import make_tiny_tokenizer
from mlora_ray.data.row_formats import COLUMN_NAMES
from mlora_ray.data.sources import DataFile, RowSettings
from mlora_ray.data.tokenization import Prepared, prepare_rows
from mlora_ray.data.tokenized_rows import rows_sha256
from mlora_ray.errors import InputError, Mistake

TOKENIZER = make_tiny_tokenizer()
PAIR = {"prompt": "a", "completion": "b"}
TURNS = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]


def prepare(folder: Path, rows: list[object], text_field: str = "", **columns: str) -> Prepared:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = DataFile(path=str(path), columns=tuple(columns.items()), text_field=text_field)
    return prepare_rows(file, TOKENIZER, RowSettings(max_length=10_000))


def sha256(folder: Path, rows: list[object], text_field: str = "", **columns: str) -> str:
    return rows_sha256(prepare(folder, rows, text_field, **columns).rows)


def mistakes_of(folder: Path, rows: list[object], text_field: str = "", **columns: str) -> list[Mistake]:
    with pytest.raises(InputError) as caught:
        prepare(folder, rows, text_field, **columns)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("row", "columns", "same_as"),
    [
        ({"question": "a", "answer": "b"}, {"prompt": "question", "completion": "answer"}, PAIR),
        ({"prompt": "a", "answer": "b"}, {"completion": "answer"}, PAIR),
        ({"talk": TURNS}, {"messages": "talk"}, {"messages": TURNS}),
        (
            {"task": "a", "context": "b", "response": "c"},
            {"instruction": "task", "input": "context", "output": "response"},
            {"instruction": "a", "input": "b", "output": "c"},
        ),
        ({"body": "a b"}, {"text": "body"}, {"text": "a b"}),
        ({"prompt": "b", "completion": "a"}, {"prompt": "completion", "completion": "prompt"}, PAIR),
    ],
)
def test_columns_of_any_name(tmp_path: Path, row: object, columns: dict[str, str], same_as: object) -> None:
    assert sha256(tmp_path, [row], **columns) == sha256(tmp_path, [same_as])


def test_named_columns_come_before_those_that_are_there(tmp_path: Path) -> None:
    row = {"messages": TURNS, "prompt": "x", "completion": "y", "question": "a", "text": "whole"}
    assert sha256(tmp_path, [row]) == sha256(tmp_path, [{"messages": TURNS}])
    assert sha256(tmp_path, [row], prompt="question") == sha256(tmp_path, [{"prompt": "a", "completion": "y"}])
    assert sha256(tmp_path, [row], text_field="text") == sha256(tmp_path, [{"text": "whole"}])


def test_a_text_field_that_is_not_there_leaves_the_other_formats(tmp_path: Path) -> None:
    plain = {"prompt": "a", "completion": "b"}
    assert sha256(tmp_path, [plain], text_field="body") == sha256(tmp_path, [plain])
    assert sha256(tmp_path, [{"body": "a"}], text_field="body") == sha256(tmp_path, [{"text": "a"}])


def test_a_column_no_row_has_is_named_with_those_there_are(tmp_path: Path) -> None:
    found = mistakes_of(tmp_path, [{"q": "a", "answer": "b"}], prompt="question", completion="answer")
    assert [(m.field, m.value) for m in found] == [("columns.prompt", "question")]
    assert f"a column of {tmp_path / 'rows.jsonl'}, which has q, answer" in found[0].allowed


def test_a_column_that_one_row_lacks_is_a_mistake_of_the_row(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "b"}, {"question": None, "answer": "b", "prompt": "not this"}]
    (found,) = mistakes_of(tmp_path, rows, prompt="question", completion="answer")
    assert (found.line, found.field) == (2, "question")
    assert "not null or nothing" in found.allowed


def test_unknown_columns_are_one_mistake_that_says_how_to_map_them(tmp_path: Path) -> None:
    (found,) = mistakes_of(tmp_path, [{"question": "a", "answer": "b"}] * 40)
    assert (found.line, found.field, found.value) == (1, "fields", "question, answer")
    assert "columns: {prompt: question, completion: answer}" in found.allowed


def test_what_nothing_reads_is_listed(tmp_path: Path) -> None:
    talk = [TURNS[0] | {"name": "ann"}, TURNS[1] | {"reasoning_content": "so"}]
    rows = [{"messages": talk, "id": 1, "tools": []}, {"messages": talk, "source": "x"}]
    assert prepare(tmp_path, rows).unread == (
        "id",
        "tools",
        "source",
        "messages[].name",
        "messages[].reasoning_content",
    )
    assert prepare(tmp_path, [{"instruction": "a", "input": "b", "output": "c"}]).unread == ()


def test_every_name_that_can_be_mapped() -> None:
    assert set(COLUMN_NAMES) == {
        "messages", "prompt", "completion", "instruction", "input", "output", "text", "tools", "chat_template_kwargs",
    }  # fmt: skip
