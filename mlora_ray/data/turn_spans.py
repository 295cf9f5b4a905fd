"""Where each turn of a conversation stands in the template's text, its end token included.

Templates that only append are split at their prefixes. Those that rewrite what came before (Qwen3 and others insert or
remove thinking by a turn's place) are asked in other ways; a text in which no way finds the turns is refused.
"""

from __future__ import annotations

from mlora_ray.data.chat_template import ChatTemplate, Span
from mlora_ray.data.conversation import Message, called_names, has_thinking, thought
from mlora_ray.data.row_formats import RowError

THINKING_IS_REWRITTEN = (
    "it leaves out the thinking of turns that are not the last: give those turns weight: 0, or rows of their own"
)
MARK_OPEN, MARK_CLOSE = "\ue000", "\ue001"  # private-use characters: they stand for a turn's content


def turn_spans(template: ChatTemplate, wanted: list[int], text: str) -> list[Span]:
    """Characters of the assistant messages `wanted` in `text`. Raises RowError."""
    spans = [_by_prefix(template, i, text) for i in wanted]
    if all(spans):
        return [span for span in spans if span]
    turns = template.talk.turns
    for find in (_by_templates_marks, _by_our_marks, _by_end_token):
        found = find(template, text)
        if found is not None:
            return [found[turns.index(i)] for i in wanted]
    messages = template.talk.messages
    allowed = "turns that can be told apart in the chat template's text"
    if any(has_thinking(messages[i]) for i in turns):
        allowed = f"{allowed}; {THINKING_IS_REWRITTEN}"
    raise RowError("messages", f"{len(messages)} turns", allowed)


def _content(message: Message) -> str:
    return str(message.get("content") or "")


def _by_prefix(template: ChatTemplate, at: int, text: str) -> Span | None:
    """The turn between the text before it and the text through it; None where these are no prefixes of the whole."""
    messages = template.talk.messages
    if at == 0:
        return None
    before = template.text(messages[:at], True)
    through = text if at == len(messages) - 1 else template.text(messages[: at + 1], False)
    if not (through.startswith(before) and text.startswith(through) and len(before) < len(through)):
        return None
    said = through[len(before) :].rstrip()
    ends_with_token = said.endswith(tuple(template.special_tokens))
    return len(before), len(before) + len(said) if ends_with_token else len(through)


def _by_templates_marks(template: ChatTemplate, text: str) -> list[Span] | None:
    """From the template's own {% generation %} marks, where there is one pair a turn."""
    spans = template.marked(text)
    return spans if spans is not None and len(spans) == len(template.talk.turns) else None


def _by_our_marks(template: ChatTemplate, text: str) -> list[Span] | None:
    """Render with marks in place of what is said, then put the words back."""
    messages, turns = template.talk.messages, template.talk.turns
    if any(called_names(messages[i]) or thought(messages[i]) for i in turns):
        return None  # a turn is more than its content
    marks = {i: f"{MARK_OPEN}{i}{MARK_CLOSE}" for i in turns}
    rest = template.text([m | {"content": marks[i]} if i in marks else m for i, m in enumerate(messages)], False)
    out, spans = "", []
    for i in turns:
        before, mark, rest = rest.partition(marks[i])
        if not mark:
            return None
        content = _content(messages[i])
        content = content if text.startswith(out + before + content + rest[:1]) else content.strip()
        end_token = next((t for t in template.special_tokens if rest.startswith(t)), "")
        start = len(out) + len(before)
        out += before + content
        spans.append((start, start + len(content) + len(end_token)))
    return spans if out + rest == text else None


def _by_end_token(template: ChatTemplate, text: str) -> list[Span] | None:
    """From where the template asks for the turn to the first end token behind its content."""
    messages = template.talk.messages
    end = _end_token(template)
    spans: list[Span] = []
    for i in template.talk.turns:
        before = template.text(messages[:i], True) if i else ""
        if not end or not before or not text.startswith(before):
            return None
        said = text.find(_content(messages[i]), len(before))
        stop = text.find(end, said + len(_content(messages[i]))) if said >= 0 else -1
        if stop < 0 or (spans and spans[-1][1] > len(before)):
            return None
        spans.append((len(before), stop + len(end)))
    return spans


def _end_token(template: ChatTemplate) -> str:
    """The special token that the template writes behind an answer; empty where it writes none."""
    asked: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK_OPEN}]
    behind = template.text(asked, False).partition(MARK_OPEN)[2]
    return next((t for t in template.special_tokens if behind.startswith(t)), "")
