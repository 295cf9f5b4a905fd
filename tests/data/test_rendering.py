"""Chat rows: every field reaches the template, and the loss falls where the row and the job say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlora_ray.bases.tiny_tokenizer import CHAT_TEMPLATE, make_tiny_tokenizer
from mlora_ray.data.sources import DataFile, RowSettings
from mlora_ray.data.tokenization import Prepared, prepare_rows
from mlora_ray.errors import InputError, Mistake

# Tools first, thinking and calls of tools in a turn; a content is written where there is one.
TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As TOOLS, but an empty thought is written into the last turn only: earlier turns are no prefix of the whole.
PLACED = TOOLS.replace(
    "{% if m.content %}", "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{% if m.content %}"
)
# The branch of a call is taken where there is no content alone.
ABSENT_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is defined %}{{ m.content }}{% else %}"
    "{% for c in m.tool_calls %}<call>{{ c.function.name }}</call>{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The content is joined to the rest: an absent one is not taken.
JOINED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{%- generation -%}{{ m.content }}{%- endgeneration -%}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SWITCHED = CHAT_TEMPLATE + "{% if be_brief %}[brief]{% endif %}"


def with_template(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def prepare(folder: Path, row: object, template: str | None, **settings: object) -> Prepared:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    rule = RowSettings(max_length=10_000, **settings)  # type: ignore[arg-type]
    return prepare_rows(DataFile(path=str(path)), with_template(template), rule)


def mistakes_of(folder: Path, row: object, template: str | None, **settings: object) -> list[Mistake]:
    with pytest.raises(InputError) as caught:
        prepare(folder, row, template, **settings)
    return caught.value.mistakes


def said(prepared: Prepared) -> list[str]:
    """Text of each run of targets of the first row."""
    runs: list[list[int]] = [[]]
    for token, is_target in zip(prepared.rows.tokens.tolist(), prepared.rows.is_target.tolist(), strict=True):
        if is_target:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [str(make_tiny_tokenizer().decode(run)) for run in runs if run]


def whole(prepared: Prepared) -> str:
    return str(make_tiny_tokenizer().decode(prepared.rows.tokens.tolist()))


def user(content: str) -> dict[str, object]:
    return {"role": "user", "content": content}


def bot(content: object = None, **fields: object) -> dict[str, object]:
    return {"role": "assistant", "content": content} | fields


CALL = {"type": "function", "function": {"name": "lookup", "arguments": {"key": "é"}}}
SCHEMA = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
CALLED = [user("when?"), bot(None, tool_calls=[CALL]), {"role": "tool", "content": "at 5"}, bot("At five.")]


def test_a_call_of_a_tool_is_trained_as_the_template_writes_it(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, {"messages": CALLED, "tools": [SCHEMA]}, TOOLS)
    assert said(prepared) == ['<call>lookup {"key": "é"}</call><|im_end|>', "At five.<|im_end|>"]
    expected = with_template(TOOLS).apply_chat_template(CALLED, tools=[SCHEMA], tokenize=False)
    assert whole(prepared) == expected
    assert prepared.unread == ()


@pytest.mark.parametrize("content", [None, "", "absent"])
@pytest.mark.parametrize("template", [TOOLS, ABSENT_ONLY, JOINED])
def test_a_missing_content_beside_a_call(tmp_path: Path, template: str, content: str | None) -> None:
    if template == ABSENT_ONLY and content == "":
        return  # an empty string is a content: this template then leaves the call out
    message = {k: v for k, v in bot(content, tool_calls=[CALL]).items() if v != "absent"}
    found = said(prepare(tmp_path, {"messages": [user("when?"), message]}, template))
    assert found[0].startswith("<call>lookup")
    assert "None" not in found[0]


def test_a_template_that_leaves_calls_out_is_a_mistake(tmp_path: Path) -> None:
    row = {"messages": [user("when?"), bot("", tool_calls=[CALL])]}
    for template in (CHAT_TEMPLATE, ABSENT_ONLY):
        (found,) = mistakes_of(tmp_path, row, template)
        assert (found.line, found.field, found.value) == (1, "messages[1].tool_calls", "lookup")
        assert "does not write calls of tools" in found.allowed
    (found,) = mistakes_of(tmp_path, {"messages": [user("when?"), bot(None, tool_calls=[CALL])]}, CHAT_TEMPLATE)
    assert found.field == "messages[1].tool_calls"
    assert found.allowed == "left out: the base's chat template does not write calls of tools"


def test_calls_are_found_where_the_last_turn_is_written_differently(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, {"messages": CALLED, "tools": [SCHEMA]}, PLACED)
    assert said(prepared) == ['<call>lookup {"key": "é"}</call><|im_end|>', "<think></think>At five.<|im_end|>"]


def test_tools_as_json_text(tmp_path: Path) -> None:
    one = prepare(tmp_path, {"messages": CALLED, "tools": [SCHEMA]}, TOOLS)
    other = prepare(tmp_path, {"messages": CALLED, "tools": json.dumps([SCHEMA])}, TOOLS)
    assert one.rows.tokens.tolist() == other.rows.tokens.tolist()
    prompted = prepare(tmp_path, {"prompt": CALLED[:1], "completion": CALLED[1:2], "tools": [SCHEMA]}, TOOLS)
    assert said(prompted) == ['<call>lookup {"key": "é"}</call><|im_end|>']
    assert json.dumps(SCHEMA) in whole(prompted)


def test_reasoning_reaches_the_template(tmp_path: Path) -> None:
    row = {"messages": [user("a"), bot("b", reasoning_content="because")]}
    assert said(prepare(tmp_path, row, TOOLS)) == ["<think>because</think>b<|im_end|>"]


def test_thinking_that_the_template_leaves_out_of_earlier_turns(tmp_path: Path) -> None:
    forgetful = PLACED.replace("{% if m.reasoning_content %}", "{% if loop.last and m.reasoning_content %}")
    talk = [user("a"), bot("b", reasoning_content="first"), user("c"), bot("d", reasoning_content="second")]
    (found,) = mistakes_of(tmp_path, {"messages": talk}, forgetful)
    assert (found.line, found.field, found.value) == (1, "messages[1]", "first")
    assert "give those turns weight: 0" in found.allowed
    talk[1]["weight"] = 0
    expected = ["<think>second</think><think></think>d<|im_end|>"]
    assert said(prepare(tmp_path, {"messages": talk}, forgetful)) == expected
    stripped = CHAT_TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]")
    stripped = stripped.replace("'<|im_end|>'", "(' ' if loop.last else '') + '<|im_end|>'")
    thought = [user("a"), bot("<think>x</think>b"), user("c"), bot("<think>y</think>d")]
    (found,) = mistakes_of(tmp_path, {"messages": thought}, stripped)
    assert "leaves out the thinking" in found.allowed


def test_settings_of_the_template_reach_it(tmp_path: Path) -> None:
    row = {"messages": [user("a"), bot("b")], "chat_template_kwargs": {"be_brief": True}}
    assert whole(prepare(tmp_path, row, SWITCHED)).endswith("[brief]")
    row["chat_template_kwargs"] = {"tokenize": True}
    assert mistakes_of(tmp_path, row, SWITCHED)[0].field == "chat_template_kwargs"


TALK = [user("a"), bot("draft", weight=0), user("again"), bot("final", weight=1)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["final<|im_end|>"]),
        ({"assistant_only_loss": "marked"}, ["final"]),
        (
            {"assistant_only_loss": "whole"},
            [
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
                "\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\nfinal<|im_end|>\n",
            ],
        ),
        (
            {"completion_only_loss": False},
            [
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
                "\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\nfinal<|im_end|>\n",
            ],
        ),
    ],
)
def test_a_turn_of_weight_zero_is_never_trained(tmp_path: Path, settings: dict, expected: list[str]) -> None:
    assert said(prepare(tmp_path, {"messages": TALK}, MARKED, **settings)) == expected


def test_weights_change_no_token(tmp_path: Path) -> None:
    plain = [{k: v for k, v in m.items() if k != "weight"} for m in TALK]
    rows = [prepare(tmp_path, {"messages": talk}, CHAT_TEMPLATE).rows for talk in (TALK, plain)]
    assert rows[0].tokens.tolist() == rows[1].tokens.tolist()
    only = mistakes_of(tmp_path, {"messages": TALK[:2]}, CHAT_TEMPLATE)
    assert "not of weight 0" in only[0].allowed


PAIR = {"prompt": [user("a"), bot("b"), user("c")], "completion": [bot("d"), user("e"), bot("f")]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["d<|im_end|>", "f<|im_end|>"]),
        ({"assistant_only_loss": "marked"}, ["d", "f"]),
        ({"assistant_only_loss": "marked", "completion_only_loss": False}, ["b", "d", "f"]),
        (
            {"assistant_only_loss": "whole"},
            ["d<|im_end|>\n<|im_start|>user\ne<|im_end|>\n<|im_start|>assistant\nf<|im_end|>\n"],
        ),
    ],
)
def test_what_is_trained_of_a_completion(tmp_path: Path, settings: dict, expected: list[str]) -> None:
    assert said(prepare(tmp_path, PAIR, MARKED, **settings)) == expected


def test_marks_are_those_of_transformers(tmp_path: Path) -> None:
    talk = [user("one word"), bot("sort the list"), user("é"), bot("yes")]
    found = with_template(MARKED).apply_chat_template(
        talk, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    rows = prepare(tmp_path, {"messages": talk}, MARKED, assistant_only_loss="marked").rows
    assert rows.tokens.tolist() == found["input_ids"]
    assert rows.is_target.astype(int).tolist() == found["assistant_masks"]


def test_assistant_only_loss_needs_marks_and_a_conversation(tmp_path: Path) -> None:
    for row, template, needed in (
        ({"messages": TALK}, CHAT_TEMPLATE, "a chat template with {% generation %} marks"),
        ({"prompt": "a", "completion": "b"}, None, "a chat template with {% generation %} marks"),
        ({"text": "a"}, MARKED, "rows of a conversation"),
    ):
        (found,) = mistakes_of(tmp_path, row, template, assistant_only_loss="marked")
        assert (found.field, found.value) == ("assistant_only_loss", "true")
        assert found.allowed.endswith(f"true needs {needed}")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tool_calls": {"name": "f"}}, "messages[1].tool_calls"),
        ({"tool_calls": ["f"]}, "messages[1].tool_calls[0]"),
        ({"tool_calls": [{"function": {"arguments": {}}}]}, "messages[1].tool_calls[0]"),
        ({"tool_calls": [CALL], "content": 3}, "messages[1].content"),
        ({"content": None}, "messages[1].content"),
        ({"tool_calls": []}, "messages[1].content"),
        ({"weight": 0.5, "content": "b"}, "messages[1].weight"),
        ({"weight": True, "content": "b"}, "messages[1].weight"),
        ({"weight": "0", "content": "b"}, "messages[1].weight"),
    ],
)
def test_wrong_fields_of_a_message(tmp_path: Path, fields: dict[str, object], field: str) -> None:
    (found,) = mistakes_of(tmp_path, {"messages": [user("a"), {"role": "assistant"} | fields]}, TOOLS)
    assert (found.line, found.field) == (1, field)


@pytest.mark.parametrize("tools", [3, "[", "{}", ["f"], {"name": "f"}])
def test_wrong_tools(tmp_path: Path, tools: object) -> None:
    (found,) = mistakes_of(tmp_path, {"messages": TALK, "tools": tools}, TOOLS)
    assert (found.line, found.field) == (1, "tools")


def test_a_token_that_reaches_into_the_completion_is_a_target(tmp_path: Path) -> None:
    row = {"prompt": "give a word: ", "completion": "date"}
    split = prepare(tmp_path, {"prompt": "give a word:", "completion": " date"}, None)
    joined = prepare(tmp_path, row, None)
    assert joined.rows.tokens.tolist() == split.rows.tokens.tolist()
    assert joined.rows.is_target.tolist() == split.rows.is_target.tolist()
    assert said(joined) == [" date<|im_end|>"]
    assert (joined.num_straddling, split.num_straddling) == (1, 0)


def test_a_template_that_ends_in_a_space(tmp_path: Path) -> None:
    spaced = CHAT_TEMPLATE.replace("message['role'] + '\n'", "message['role'] + ': '").replace(
        "assistant\n", "assistant: "
    )
    prepared = prepare(tmp_path, {"messages": [user("a"), bot("word list")]}, spaced)
    assert said(prepared) == [" word list<|im_end|>"]
    assert prepared.num_straddling == 1


def test_text_that_begins_with_the_first_token_has_one_of_it(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tiny_tokenizer()
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    found = []
    for number, text in enumerate(("the list", f"{bos}the list")):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps({"text": text}) + "\n")
        found.append(prepare_rows(DataFile(path=str(path)), tokenizer, RowSettings(max_length=100)))
    assert found[0].rows.tokens.tolist() == found[1].rows.tokens.tolist()
    assert found[0].rows.tokens.tolist().count(tokenizer.bos_token_id) == 1
    assert [each.num_with_start for each in found] == [0, 1]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "lookup", "\ud800", "[{}]"])
KEYS = st.sampled_from(["name", "function", "type", "x"])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=5
)
FIELDS = ("content", "tool_calls", "weight", "reasoning_content", "name")
MESSAGE = st.builds(
    lambda role, fields: {"role": role} | fields,
    st.sampled_from(["user", "assistant", "assistant", "tool", None]),
    st.dictionaries(st.sampled_from(FIELDS), st.just("b") | JSON, max_size=4),
)
ROW = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, max_size=4) | JSON},
    optional={"tools": JSON, "chat_template_kwargs": JSON, "prompt": JSON, "completion": JSON},
)


@given(ROW | JSON, st.sampled_from([TOOLS, PLACED, JOINED, MARKED, CHAT_TEMPLATE]), st.sampled_from(["turns", "whole"]))
@settings(max_examples=100, deadline=None)
def test_any_row_is_tokenised_or_a_mistake(
    tmp_path_factory: pytest.TempPathFactory, row: object, template: str, rule: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    try:
        prepared = prepare(folder, row, template, assistant_only_loss=rule)
    except InputError:
        return
    assert prepared.rows.num_targets().tolist()[0] > 0
