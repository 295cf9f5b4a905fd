"""Rows of every format: which tokens are targets, what is cut, and every mistake with its file and line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlora_ray.bases.tiny_tokenizer import CHAT_TEMPLATE, make_tiny_tokenizer
from mlora_ray.data.sources import DataFile, RowSettings
from mlora_ray.data.text_files import MAX_SHOWN
from mlora_ray.data.tokenization import Prepared, prepare_rows
from mlora_ray.data.tokenized_rows import Rows
from mlora_ray.errors import InputError, Mistake

TOKENIZER = make_tiny_tokenizer()

# Forgets what the assistant thought in earlier turns, as Qwen3's template does.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think></think>\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{% if loop.last %}!{% endif %}{{ m['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COUNTING = "{{ messages | length }}: {% for m in messages %}{{ m['content'] | upper }};{% endfor %}"

USER, BOT = "user", "assistant"


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def with_template(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def prepare(
    folder: Path, rows: list[object], tokenizer: PreTrainedTokenizerFast = TOKENIZER, **settings: object
) -> Prepared:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare_path(path, tokenizer, **settings)


def prepare_path(
    path: Path | str, tokenizer: PreTrainedTokenizerFast = TOKENIZER, max_length: int = 10_000, **settings: object
) -> Prepared:
    file = DataFile(path=str(path), split=str(settings.pop("split", "")))
    return prepare_rows(file, tokenizer, RowSettings(max_length=max_length, **settings))  # type: ignore[arg-type]


def mistakes_of(path: Path) -> list[Mistake]:
    with pytest.raises(InputError) as caught:
        prepare_path(path, max_length=100)
    return caught.value.mistakes


def said(rows: Rows, row: int = 0) -> list[str]:
    """Text of each run of targets."""
    start, end = rows.offsets[row], rows.offsets[row + 1]
    runs: list[list[int]] = [[]]
    for token, is_target in zip(rows.tokens[start:end].tolist(), rows.is_target[start:end].tolist(), strict=True):
        if is_target:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [TOKENIZER.decode(run) for run in runs if run]


def whole(rows: Rows, row: int = 0) -> str:
    return str(TOKENIZER.decode(rows.tokens[rows.offsets[row] : rows.offsets[row + 1]].tolist()))


TALK = [message("system", "s"), message(USER, "hi"), message(BOT, "yo é 語"), message(USER, "no"), message(BOT, "bye")]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, FORGETFUL])
def test_assistant_turns_and_their_end_tokens_are_the_targets(tmp_path: Path, template: str) -> None:
    rows = prepare(tmp_path, [{"messages": TALK}], with_template(template)).rows
    assert said(rows) == ["yo é 語<|im_end|>", "bye<|im_end|>"]


def test_the_templates_own_generation_marks_are_used(tmp_path: Path) -> None:
    rows = prepare(tmp_path, [{"messages": TALK}], with_template(MARKED)).rows
    assert said(rows) == ["yo é 語<|im_end|>", "!bye<|im_end|>"]


def test_a_template_that_hides_the_turns_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="turns that can be told apart"):
        prepare(tmp_path, [{"messages": TALK}], with_template(COUNTING))


def test_one_prefix_per_turn_where_content_repeats_the_template(tmp_path: Path) -> None:
    talk = [message(BOT, "assistant"), message(USER, "assistant\n"), message(BOT, "user\nassistant")]
    rows = prepare(tmp_path, [{"messages": talk}]).rows
    assert said(rows) == ["assistant<|im_end|>", "user\nassistant<|im_end|>"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1+1=", "completion": "2"},
        {"prompt": [message(USER, "1+1=")], "completion": [message(BOT, "2")]},
        {"prompt": [message(USER, "1+1=")], "completion": "2"},
        {"instruction": "1+1=", "input": "", "output": "2"},
        {"instruction": "1+1=", "output": "2", "id": 7},
    ],
)
def test_the_answer_is_the_target(tmp_path: Path, row: object) -> None:
    rows = prepare(tmp_path, [row]).rows
    assert whole(rows) == "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    assert said(rows) == ["2<|im_end|>"]


def test_only_the_completion_of_a_conversation_counts(tmp_path: Path) -> None:
    rows = prepare(tmp_path, [{"prompt": TALK[:4], "completion": TALK[4:]}]).rows
    assert said(rows) == ["bye<|im_end|>"]


def test_alpaca_input_follows_the_instruction(tmp_path: Path) -> None:
    row = {"instruction": "add", "input": "1 1", "output": "2"}
    assert "user\nadd\n\n1 1<|im_end|>" in whole(prepare(tmp_path, [row]).rows)
    plain = prepare(tmp_path, [row], with_template(None)).rows
    assert whole(plain) == "### Instruction:\nadd\n\n### Input:\n1 1\n\n### Response:\n2<|im_end|>"
    assert said(plain) == ["2<|im_end|>"]


def test_text_is_all_target_and_ends(tmp_path: Path) -> None:
    rows = prepare(tmp_path, [{"text": "so it is"}, {"text": "done<|im_end|>"}]).rows
    assert [said(rows, i) for i in range(2)] == [["so it is<|im_end|>"], ["done<|im_end|>"]]


def test_loss_on_everything_when_asked(tmp_path: Path) -> None:
    rows = prepare(tmp_path, [{"prompt": "a", "completion": "b"}], completion_only_loss=False).rows
    assert rows.is_target.all()


def test_without_a_template_prompt_and_completion_are_joined(tmp_path: Path) -> None:
    rows = prepare(tmp_path, [{"prompt": "ab ", "completion": "cd"}], with_template(None)).rows
    assert (whole(rows), said(rows)) == ("ab cd<|im_end|>", ["cd<|im_end|>"])
    with pytest.raises(InputError, match="has no chat template"):
        prepare(tmp_path, [{"messages": TALK}], with_template(None))


def test_truncation_keeps_the_start_and_is_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b" * n} for n in (5, 50, 80)]
    full = prepare(tmp_path, rows)
    cut = prepare(tmp_path, rows, max_length=30)
    assert (full.num_truncated, cut.num_truncated) == (0, 2)
    assert cut.rows.lengths.max() == 30
    for i in range(3):
        kept = cut.rows.tokens[cut.rows.offsets[i] : cut.rows.offsets[i + 1]]
        start = full.rows.offsets[i]
        assert kept.tolist() == full.rows.tokens[start : start + len(kept)].tolist()


def test_a_row_whose_targets_are_cut_off_is_dropped_kept_or_a_mistake(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a" * 40, "completion": "b"}]
    dropped = prepare(tmp_path, rows, max_length=20)
    assert (dropped.rows.num_rows, dropped.num_read, dropped.num_dropped, dropped.num_truncated) == (1, 2, 1, 0)
    kept = prepare(tmp_path, rows, max_length=20, overlong="truncate")
    assert (kept.rows.num_rows, kept.num_dropped, kept.num_truncated) == (2, 0, 1)
    assert kept.rows.num_targets().tolist() == [2, 0]
    with pytest.raises(InputError) as caught:
        prepare(tmp_path, rows, max_length=20, overlong="error")
    (found,) = caught.value.mistakes
    assert found == dropped.overlong
    assert (found.line, found.field, found.value) == (2, "max_length", "20")
    assert "row has no target" in found.allowed


@pytest.mark.parametrize(
    ("row", "field", "allowed"),
    [
        ({"prompt": "a", "completion": " "}, "completion", "no target"),
        ({"prompt": "a", "completion": None}, "completion", "a value, not null"),
        ({"prompt": 1, "completion": "b"}, "prompt", "a string, not int"),
        ({"text": "t"}, "fields", "the format of the first row"),
        ({"quiz": "t"}, "fields", "messages | prompt"),
        ([1], "row", "an object"),
        ({"prompt": "\ud800", "completion": "b"}, "prompt", "surrogate"),
    ],
)
def test_each_wrong_row_has_its_line(tmp_path: Path, row: object, field: str, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        prepare(tmp_path, [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b"}, row])
    (found,) = caught.value.mistakes
    assert (found.line, found.field) == (3, field)
    assert allowed in found.allowed


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ("hi", "messages"),
        ([1], "messages[0]"),
        ([message("robot", "a")], "messages[0].role"),
        ([message(USER, "a"), {"role": BOT}], "messages[1].content"),
        ([message(USER, "a")], "messages"),
        ([message(USER, "a"), message(BOT, "")], "messages"),
    ],
)
def test_wrong_messages(tmp_path: Path, messages: object, field: str) -> None:
    with pytest.raises(InputError) as caught:
        prepare(tmp_path, [{"messages": messages}])
    assert [(m.line, m.field) for m in caught.value.mistakes] == [(1, field)]


def test_many_mistakes_are_counted_and_a_few_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepare(tmp_path, [{"prompt": "a", "completion": ""}] * 50)
    found = caught.value.mistakes
    assert len(found) == MAX_SHOWN + 1
    assert "and 30 more" in str(found[-1])


def test_broken_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"\n{"text": "c"}\n[\n')
    assert [m.line for m in mistakes_of(path)] == [3, 5]


def test_json_list_rows_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[\n  {"text": "a"},\n  {\n    "text": 3\n  }, {"text": 4}\n]\n')
    assert [m.line for m in mistakes_of(path)] == [3, 5]


@pytest.mark.parametrize(
    ("text", "line"),
    [('[\n{"text": "a"}\n{"text": "b"}]', 3), ('[{"text": "a"},\n', 2), ('[{"text":\n}]', 2), ("[", 1)],
)
def test_broken_json_list(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert [(m.line, m.field) for m in mistakes_of(path)] == [(line, "json")]


@pytest.mark.parametrize(
    ("name", "data", "allowed"),
    [
        ("x.jsonl", b"", "at least one row"),
        ("x.jsonl", b"\n \n", "at least one row"),
        ("x.json", b"[]", "at least one row"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "UTF-8"),
        ("x.parquet", b"PAR?", "a Parquet file"),
        ("x.csv", b"a,b", "at least one row"),
        ("x.xls", b"a,b", "a name that ends in .jsonl"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, allowed: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    (found,) = mistakes_of(path)
    assert found.file == str(path)
    assert allowed in found.allowed


def test_no_such_file(tmp_path: Path) -> None:
    (found,) = mistakes_of(tmp_path / "no.jsonl")
    assert "none of this name" in found.allowed


def test_jsonl_json_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "input": None, "output": "d"}]
    given = [{k: v for k, v in row.items() if v is not None} for row in rows]
    expected = prepare(tmp_path, list(given)).rows
    (tmp_path / "x.json").write_text(json.dumps(given))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    for name in ("x.json", "x.parquet"):
        held = prepare_path(tmp_path / name, max_length=100).rows
        assert all((a == b).all() for a, b in zip(held, expected, strict=True))


def test_parquet_messages_and_row_numbers(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([{"messages": TALK}, {"messages": TALK[:2]}])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    (found,) = mistakes_of(tmp_path / "x.parquet")
    assert found.field == "row 2: messages"


def test_no_network_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(InputError, match="in the cache or reachable"):
        prepare_path("hub:owner/none", max_length=100)
    assert time.monotonic() - start < 10


def test_a_data_set_folder_through_the_hub_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "test.jsonl").write_text('{"prompt": "c", "completion": "d"}\n{"prompt": "e", "completion": null}\n')
    assert prepare_path(f"hub:{folder}", max_length=100).rows.num_rows == 1
    with pytest.raises(InputError) as caught:
        prepare_path(f"hub:{folder}", max_length=100, split="test")
    assert [m.field for m in caught.value.mistakes] == ["row 2: completion"]
    with pytest.raises(InputError, match="owner/name\\[split\\]"):
        prepare_path(f"hub:{folder}", max_length=100, split="nope")


@given(
    st.lists(st.tuples(st.text(max_size=8), st.text(min_size=1, max_size=8).filter(str.strip)), min_size=1, max_size=4)
)
@settings(max_examples=80, deadline=None)
def test_any_text_is_kept_and_only_the_answers_are_targets(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    talk = [m for asked, answer in turns for m in (message(USER, asked), message(BOT, answer))]
    rows = prepare(folder, [{"messages": talk}]).rows
    assert whole(rows) == TOKENIZER.apply_chat_template(talk, tokenize=False)
    assert len(said(rows)) == len(turns)
    for found, (_, answer) in zip(said(rows), turns, strict=True):
        assert found == f"{answer}<|im_end|>"


def test_rows_are_prepared_by_the_thousand_a_second(tmp_path: Path) -> None:
    import time

    rows: list[object] = [{"prompt": f"what is {i} plus {i}", "completion": f"It is {2 * i}"} for i in range(3000)]
    start = time.process_time()
    assert prepare(tmp_path, rows).rows.num_rows == 3000
    assert time.process_time() - start < 6
