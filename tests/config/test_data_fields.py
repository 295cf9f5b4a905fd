"""The fields that name rows: sources, slices, columns and targets, each mistake with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlora_ray.config.job_file import JobFile, load_job_file
from mlora_ray.data.sources import DataFile, RowSettings
from mlora_ray.errors import InputError, Mistake


def load(folder: Path, text: str) -> JobFile:
    for name in ("a.jsonl", "b.csv", "odd[1:2].jsonl"):
        (folder / name).write_text('{"text": "a"}\n')
    (folder / "data" / "set").mkdir(parents=True, exist_ok=True)
    path = folder / "jobs.yaml"
    path.write_text(text)
    return load_job_file(path)


def sources(folder: Path, train: str) -> tuple[DataFile, ...]:
    return load(folder, f"base: b\njobs:\n  - name: j\n    train: {train}\n").jobs[0].train_files


def the_mistake(folder: Path, text: str) -> Mistake:
    with pytest.raises(InputError) as caught:
        load(folder, text)
    (found,) = caught.value.mistakes
    return found


def job(train: str = "a.jsonl", **fields: str) -> str:
    lines = "".join(f"    {name}: {value}\n" for name, value in fields.items())
    return f"base: b\njobs:\n  - name: j\n    train: {train}\n{lines}"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a.jsonl", {}),
        ("./a.jsonl", {}),
        ("'a.jsonl[:90%]'", {"part": ":90%"}),
        ("'a.jsonl[-20%:]'", {"part": "-20%:"}),
        ("'a.jsonl[100:200]'", {"part": "100:200"}),
        ("{path: a.jsonl, split: '[:90%]'}", {"part": ":90%"}),
        ("{path: a.jsonl, weight: 2}", {"weight": 2.0}),
        ("{path: a.jsonl, columns: {prompt: q, completion: a}}", {"columns": (("prompt", "q"), ("completion", "a"))}),
    ],
)
def test_one_source(tmp_path: Path, written: str, expected: dict) -> None:
    assert sources(tmp_path, written) == (DataFile(path=str(tmp_path / "a.jsonl"), **expected),)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("'data/set[test]'", {"split": "test"}),
        ("'data/set[test][5:]'", {"split": "test", "part": "5:"}),
        ("{path: data/set, split: 'test[:10]', name: main}", {"split": "test", "part": ":10", "subset": "main"}),
    ],
)
def test_a_folder_beside_the_job_file(tmp_path: Path, written: str, expected: dict) -> None:
    assert sources(tmp_path, written) == (DataFile(path=str(tmp_path / "data/set"), **expected),)


def test_several_sources_and_their_own_columns(tmp_path: Path) -> None:
    text = """base: b
defaults: {columns: {text: body}, dataset_text_field: body, overlong: error, assistant_only_loss: true}
jobs:
  - name: j
    max_length: 9
    completion_only_loss: false
    train:
      - a.jsonl
      - {path: b.csv, weight: 0.5, columns: {text: t}}
      - owner/set[test]
    eval: [a.jsonl]
  - {name: k, train: a.jsonl, overlong: truncate, assistant_only_loss: turns}
  - {name: l, train: a.jsonl, assistant_only_loss: false, eval: }
"""
    jobs = load(tmp_path, text).jobs
    body = {"columns": (("text", "body"),), "text_field": "body"}
    assert jobs[0].train_files == (
        DataFile(path=str(tmp_path / "a.jsonl"), **body),
        DataFile(path=str(tmp_path / "b.csv"), weight=0.5, columns=(("text", "t"),), text_field="body"),
        DataFile(path="hub:owner/set", split="test", **body),
    )
    assert jobs[0].eval_files == jobs[0].train_files[:1]
    assert jobs[0].rows == RowSettings(
        max_length=9, completion_only_loss=False, assistant_only_loss="marked", overlong="error"
    )
    assert (jobs[1].rows.overlong, jobs[1].rows.assistant_only_loss) == ("truncate", "turns")
    assert jobs[2].rows.assistant_only_loss == "whole"
    assert jobs[2].eval_files == ()


def test_a_name_with_brackets_is_a_name_where_there_is_such_a_file(tmp_path: Path) -> None:
    assert sources(tmp_path, "'odd[1:2].jsonl'")[0] == DataFile(path=str(tmp_path / "odd[1:2].jsonl"))
    (tmp_path / "a.jsonl[:5]").write_text("")
    assert sources(tmp_path, "'a.jsonl[:5]'")[0].part == ""


def test_a_link_keeps_its_name_and_the_working_directory_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blob").write_text('{"text": "a"}\n')
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "blob")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data" / "set").mkdir(parents=True)
    (elsewhere / "only.jsonl").write_text("{}")
    monkeypatch.chdir(elsewhere)
    assert sources(tmp_path, "link.jsonl")[0].path == str(tmp_path / "link.jsonl")
    assert sources(tmp_path, "data/set")[0].path == str(tmp_path / "data/set")
    assert the_mistake(tmp_path, job("only.jsonl")).value == "only.jsonl"


@pytest.mark.parametrize(
    ("train", "line", "field", "value", "allowed"),
    [
        ("[]", 4, "train", "[]", "at least one"),
        ("3", 4, "train", "3", "a mapping with path, or a list of these, not the number 3"),
        ("", 4, "train", "null", "a path, a Hub data set"),
        ("[a.jsonl, 3]", 4, "train[1]", "3", "not the number 3"),
        ("[a.jsonl, no.jsonl]", 4, "train[1]", "no.jsonl", "a file that exists, or a folder, beside the job file"),
        ("'a.jsonl[90%]'", 4, "train", "a.jsonl[90%]", "a slice is written [:90%] or [100:200]"),
        ("'a.jsonl[x:]'", 4, "train", "[x:]", "a slice such as [:90%] or [100:200]"),
        ("{weight: 2}", 4, "train.path", "", "required"),
        ("{path: a.jsonl, weight: 0}", 4, "train.weight", "0", "greater than 0"),
        ("{path: a.jsonl, weight: 1.0e9}", 4, "train.weight", "1000000000.0", "less than or equal to 1000"),
        ("{path: a.jsonl, weigth: 2}", 4, "train.weigth", "2", "did you mean weight?"),
        ("{path: a.jsonl, split: 'a b'}", 4, "train", "a b", "a split, a slice"),
        ("{path: 'a.jsonl[:5]', split: '[5:]'}", 4, "train.split", "[5:]", "not both"),
        ("~no-such-user/x.jsonl", 4, "train", "~no-such-user/x.jsonl", "a file that exists"),
        (f"{'x' * 5000}.jsonl", 4, "train", "x" * 5000 + ".jsonl", "a file that exists"),
    ],
)
def test_sources_that_are_wrong(tmp_path: Path, train: str, line: int, field: str, value: str, allowed: str) -> None:
    found = the_mistake(tmp_path, job(train))
    assert (found.line, found.field, found.value) == (line, f"{field}", value)
    assert allowed in found.allowed


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("columns", "{question: prompt}", "not 'question'; write prompt: question"),
        ("columns", "{prompt: 3}", "the name of a column for prompt, not the number 3"),
        ("columns", "question", "a mapping such as {prompt: question, completion: answer}"),
        ("columns", "{}", "a mapping such as"),
        ("dataset_text_field", "3", "a valid string"),
        ("overlong", "keep", "'drop', 'truncate' or 'error'"),
        ("assistant_only_loss", "'yes'", "turns, true or false, not the string 'yes'"),
        ("text_column", "body", "did you mean dataset_text_field?"),
        ("excess_length_strategy", "drop", "did you mean overlong?"),
    ],
)
def test_fields_that_are_wrong(tmp_path: Path, name: str, value: str, allowed: str) -> None:
    found = the_mistake(tmp_path, job(**{name: value}))
    assert (found.line, found.field) == (5, f"{name}")
    assert allowed in found.allowed
