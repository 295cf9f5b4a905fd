"""One row of any format as text, with the spans of characters that are targets of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlora_ray.data.chat_template import ChatTemplate, Span
from mlora_ray.data.conversation import (
    Conversation,
    called_names,
    checked_text,
    conversation_of,
    says_something,
    thought,
)
from mlora_ray.data.row_formats import Row, RowError
from mlora_ray.data.sources import MARKED, TURNS
from mlora_ray.data.turn_spans import THINKING_IS_REWRITTEN, turn_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Rendered(NamedTuple):
    """A row as text. `spans` are its targets; None means every token."""

    text: str
    spans: list[Span] | None


class TargetRule(NamedTuple):
    """Where the loss falls: `assistant_only` is TURNS, MARKED or WHOLE."""

    completion_only: bool
    assistant_only: str


def render(row: Row, row_format: str, tokenizer: PreTrainedTokenizerBase, rule: TargetRule) -> Rendered:
    """Raises RowError."""
    if row_format == "text":
        return _render_text(checked_text(row["text"], "text"), tokenizer)
    if row_format == "messages":
        return render_conversation(conversation_of(row, [], row["messages"], ("", "messages")), tokenizer, rule)
    if row_format == "prompt/completion":
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list) or isinstance(completion, list):
            talk = conversation_of(row, prompt, completion, ("prompt", "completion"))
            return render_conversation(talk, tokenizer, rule)
        texts = checked_text(prompt, "prompt"), checked_text(completion, "completion")
        return _render_pair(row, *texts, "completion", tokenizer, rule)
    asked, output = checked_text(row["instruction"], "instruction"), checked_text(row["output"], "output")
    given = checked_text(row["input"], "input") if "input" in row else ""
    if tokenizer.chat_template:
        prompt = f"{asked}\n\n{given}" if given else asked
        return _render_pair({}, prompt, output, "output", tokenizer, rule)
    context = f"### Input:\n{given}\n\n" if given else ""
    plain = f"### Instruction:\n{asked}\n\n{context}### Response:\n"
    return _render_pair({}, plain, output, "output", tokenizer, rule)


def _render_text(text: str, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    if not text.strip():
        raise RowError("text", text, "a text that is not empty: row has no target")
    eos = str(tokenizer.eos_token or "")
    return Rendered(text if eos and text.endswith(eos) else text + eos, None)


def _render_pair(
    row: Row, prompt: str, completion: str, field: str, tokenizer: PreTrainedTokenizerBase, rule: TargetRule
) -> Rendered:
    if not completion.strip():
        raise RowError(field, completion, "a text that is not empty: row has no target")
    if tokenizer.chat_template:
        talk = conversation_of(row, prompt, completion, ("prompt", "completion"))
        return render_conversation(talk, tokenizer, rule)
    text = prompt + completion + str(tokenizer.eos_token or "")
    return Rendered(text, [(len(prompt), len(text))] if rule.completion_only else None)


def render_conversation(talk: Conversation, tokenizer: PreTrainedTokenizerBase, rule: TargetRule) -> Rendered:
    """The conversation as text with its targets. Raises RowError."""
    if not tokenizer.chat_template:
        allowed = "prompt/completion, alpaca or text: the base's tokenizer has no chat template"
        raise RowError("messages", "", allowed)
    if not rule.completion_only:
        talk = talk._replace(first_target=0)
    if not any(says_something(talk.messages[i]) for i in talk.trained):
        allowed = "an assistant message that is not empty and not of weight 0: row has no target"
        raise RowError("messages", "", allowed)
    mistakes: dict[str, RowError] = {}
    for content, spelled in talk.spellings():
        try:
            return _rendered(spelled, tokenizer, rule)
        except RowError as error:
            mistakes[content] = error
    for mistake in mistakes.values():  # calls that the template does not write: no spelling mends that
        if mistake.field.endswith(".tool_calls"):
            raise mistake
    *_, last = mistakes.values()
    if len(mistakes) > 1:
        last.allowed = "; ".join(f"{error.allowed} (content {name})" for name, error in mistakes.items())
    raise last


def _rendered(talk: Conversation, tokenizer: PreTrainedTokenizerBase, rule: TargetRule) -> Rendered:
    template = ChatTemplate(tokenizer, talk)
    text = checked_text(template.text(talk.messages, False), "messages")
    if rule.assistant_only == MARKED:
        spans = _marked(template, text)
    elif rule.assistant_only == TURNS and rule.completion_only:
        spans = turn_spans(template, talk.trained, text)
    else:
        spans = _whole(template, text)
    _check_written(template, "".join(text[start:end] for start, end in spans))
    return Rendered(text, None if spans == [(0, len(text))] else spans)


def _check_written(template: ChatTemplate, targets: str) -> None:
    """Raises RowError where a trained turn's calls, or thinking that the template reads, are not in its targets."""
    for i in template.talk.trained:
        message = template.talk.messages[i]
        if lost := next((name for name in called_names(message) if name not in targets), None):
            allowed = "left out: the base's chat template does not write calls of tools"
            raise RowError(f"messages[{i}].tool_calls", lost, allowed)
        if template.reads_reasoning and thought(message) not in targets:
            allowed = f"written whole by the chat template; {THINKING_IS_REWRITTEN}"
            raise RowError(f"messages[{i}]", thought(message), allowed)


def _marked(template: ChatTemplate, text: str) -> list[Span]:
    """What the template encloses in generation marks, within the completion and without muted turns."""
    talk = template.talk
    spans = template.marked(text) or []
    if talk.muted:
        if len(spans) != len(talk.turns):
            raise RowError("messages", "weight: 0", "weights of 1: the chat template marks no span for each turn")
        spans = [span for i, span in zip(talk.turns, spans, strict=True) if i not in talk.muted]
    first = _completion_start(template, text)
    found = [(max(start, first), end) for start, end in spans if end > max(start, first)]
    if not found:
        raise RowError("messages", "", "a turn that the chat template marks with {% generation %}: row has no target")
    return found


def _whole(template: ChatTemplate, text: str) -> list[Span]:
    """The whole text, or the whole completion, without muted turns."""
    talk = template.talk
    spans: list[Span] = []
    at = _completion_start(template, text)
    muted = [i for i in sorted(talk.muted) if i >= talk.first_target]
    for start, end in turn_spans(template, muted, text) if muted else []:
        spans.append((at, start))
        at = end
    return [(start, end) for start, end in [*spans, (at, len(text))] if end > start]


def _completion_start(template: ChatTemplate, text: str) -> int:
    """Where the text leaves that of the prompt with the start of an answer, as in TRL."""
    talk = template.talk
    if not talk.first_target:
        return 0
    asked = template.text(talk.messages[: talk.first_target], True)
    return next((i for i, (a, b) in enumerate(zip(asked, text, strict=False)) if a != b), min(len(asked), len(text)))
