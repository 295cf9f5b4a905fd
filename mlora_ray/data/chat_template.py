"""One row of any format as text, with the spans of characters that are targets of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant", "tool", "developer", "function")
FORMATS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("messages", ("messages",)),
    ("prompt/completion", ("prompt", "completion")),
    ("alpaca", ("instruction", "output")),
    ("text", ("text",)),
)
KNOWN_FORMATS = "messages | prompt + completion | instruction (+ input) + output | text"
MARK_OPEN, MARK_CLOSE = "\ue000", "\ue001"  # private-use characters: they stand for a turn's content
Message = dict[str, str]
Span = tuple[int, int]  # characters [start, end)


class Rendered(NamedTuple):
    """A row as text. `spans` are its targets; None means every token."""

    text: str
    spans: list[Span] | None


class Turns(NamedTuple):
    """A conversation. The loss falls on assistant messages from index `first_target` on."""

    messages: list[Message]
    first_target: int


class RowError(Exception):
    """One row's own mistake: field, value, what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field}: {value!r} — {allowed}")


def format_of(value: object, preferred: str | None = None) -> str | None:
    """The row's format: `preferred` if its fields are all there, or else the first that fits."""
    if not isinstance(value, dict):
        return None
    found = [name for name, fields in FORMATS if all(f in value for f in fields)]
    return preferred if preferred in found else (found[0] if found else None)


def render(row: dict[str, object], row_format: str, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Raises RowError."""
    if row_format == "text":
        text = _string(row, "text")
        if not text.strip():
            raise RowError("text", text, "a text that is not empty: row has no target")
        eos = str(tokenizer.eos_token or "")
        return Rendered(text if eos and text.endswith(eos) else text + eos, None)
    if row_format == "messages":
        return _render_turns(Turns(_messages(row["messages"], "messages"), 0), tokenizer)
    if row_format == "prompt/completion":
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list) or isinstance(completion, list):
            before, after = _messages(prompt, "prompt"), _messages(completion, "completion")
            return _render_turns(Turns(before + after, len(before)), tokenizer)
        return _render_pair(_string(row, "prompt"), _string(row, "completion"), "completion", tokenizer)
    asked, given = _string(row, "instruction"), _string(row, "input") if "input" in row else ""
    if tokenizer.chat_template:
        return _render_pair(f"{asked}\n\n{given}" if given else asked, _string(row, "output"), "output", tokenizer)
    context = f"### Input:\n{given}\n\n" if given else ""
    plain = f"### Instruction:\n{asked}\n\n{context}### Response:\n"
    return _render_pair(plain, _string(row, "output"), "output", tokenizer)


def _string(row: dict[str, object], field: str) -> str:
    return _text(row[field], field)


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise RowError(field, value, f"a string, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(field, ascii(value), "text without halves of surrogate pairs") from None
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _messages(value: object, field: str) -> list[Message]:
    if isinstance(value, str) and field != "messages":
        return [{"role": "user" if field == "prompt" else "assistant", "content": _text(value, field)}]
    if not isinstance(value, list) or (not value and field != "prompt"):
        raise RowError(field, value, "a list of {role, content} that is not empty")
    out: list[Message] = []
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            raise RowError(f"{field}[{i}]", message, "an object with role and content")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RowError(f"{field}[{i}].role", role, f"one of {', '.join(ROLES)}")
        out.append({"role": role, "content": _text(content, f"{field}[{i}].content")})
    return out


def _render_pair(prompt: str, completion: str, field: str, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    if not completion.strip():
        raise RowError(field, completion, "a text that is not empty: row has no target")
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return _render_turns(Turns(turns, 1), tokenizer)
    text = prompt + completion + str(tokenizer.eos_token or "")
    return Rendered(text, [(len(prompt), len(text))])


def _render_turns(turns: Turns, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The conversation as text, with the span of each assistant turn and its end token."""
    if not tokenizer.chat_template:
        allowed = "prompt/completion, alpaca or text: the base's tokenizer has no chat template"
        raise RowError("messages", "", allowed)
    ends = [i for i, m in enumerate(turns.messages) if m["role"] == "assistant" and i >= turns.first_target]
    if not any(turns.messages[i]["content"].strip() for i in ends):
        raise RowError("messages", "", "an assistant message that is not empty: row has no target")
    text = _template(tokenizer, turns.messages, False)
    spans = [_span(tokenizer, turns.messages, i, text) for i in ends]
    if all(spans):
        return Rendered(text, [s for s in spans if s])
    for find in (_marked_by_template, _marked_by_us):
        found = find(tokenizer, turns.messages, text)
        if found is not None:
            return Rendered(text, found[-len(ends) :])
    allowed = "turns that can be told apart in the chat template's text"
    raise RowError("messages", f"{len(turns.messages)} turns", allowed)


def _template(tokenizer: PreTrainedTokenizerBase, messages: list[Message], add_generation_prompt: bool) -> str:
    import jinja2

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (jinja2.TemplateError, TypeError, ValueError, IndexError, KeyError) as error:
        roles = " ".join(m["role"] for m in messages)
        raise RowError("messages", roles, f"turns the chat template takes: {error}") from None
    return str(text)


def _span(tokenizer: PreTrainedTokenizerBase, messages: list[Message], at: int, text: str) -> Span | None:
    """Characters of assistant turn `at`, or None where the template rewrites what came before it."""
    if at == 0:
        return None
    before = _template(tokenizer, messages[:at], True)
    through = text if at == len(messages) - 1 else _template(tokenizer, messages[: at + 1], False)
    if not (through.startswith(before) and text.startswith(through) and len(before) < len(through)):
        return None
    said = through[len(before) :].rstrip()
    ends_with_token = said.endswith(tuple(map(str, tokenizer.all_special_tokens)))
    return len(before), len(before) + len(said) if ends_with_token else len(through)


def _marked_by_template(tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str) -> list[Span] | None:
    """Spans of every assistant turn, from the template's own {% generation %} marks."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = tokenizer.get_chat_template()
    if "generation %}" not in template.replace("-%}", "%}").replace("generation%}", "generation %}"):
        return None
    rendered, spans = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    said = sum(m["role"] == "assistant" for m in messages)
    if rendered[0] != text or len(spans[0]) != said:
        return None
    return [(int(start), int(end)) for start, end in spans[0]]


def _marked_by_us(tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str) -> list[Span] | None:
    """Spans of every assistant turn: render with marks in place of what is said, then put the words back."""
    said = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    marks = {i: f"{MARK_OPEN}{i}{MARK_CLOSE}" for i in said}
    rest = _template(tokenizer, [m | {"content": marks[i]} if i in marks else m for i, m in enumerate(messages)], False)
    tokens = sorted(map(str, tokenizer.all_special_tokens), key=len, reverse=True)
    out, spans = "", []
    for i in said:
        before, mark, rest = rest.partition(marks[i])
        if not mark:
            return None
        content = messages[i]["content"]
        content = content if text.startswith(out + before + content + rest[:1]) else content.strip()
        end_token = next((t for t in tokens if rest.startswith(t)), "")
        start = len(out) + len(before)
        out += before + content
        spans.append((start, start + len(content) + len(end_token)))
    return spans if out + rest == text else None
