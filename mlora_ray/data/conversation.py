"""One row's conversation, checked: messages as the template gets them, and which turns are trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from mlora_ray.data.row_formats import REASONING, Row, RowError

ROLES = ("system", "user", "assistant", "tool", "developer", "function")
Message = dict[str, object]


class Conversation(NamedTuple):
    """Messages with all their fields, and what else the template reads. The loss is on `trained` assistant turns."""

    messages: list[Message]
    first_target: int  # index of the completion's first message
    muted: frozenset[int]  # assistant turns of weight 0
    tools: list[object] | None
    template_kwargs: dict[str, object]

    @property
    def turns(self) -> list[int]:
        """Indices of all assistant messages."""
        return [i for i, m in enumerate(self.messages) if m["role"] == "assistant"]

    @property
    def trained(self) -> list[int]:
        return [i for i in self.turns if i >= self.first_target and i not in self.muted]

    def spellings(self) -> Iterator[tuple[str, Conversation]]:
        """The conversation with a missing content absent (transformers drops a null) and empty: templates differ."""
        yield "absent", self
        if any("content" not in m for m in self.messages):
            yield "empty", self._replace(messages=[{"content": ""} | m for m in self.messages])


def conversation_of(row: Row, before: object, after: object, names: tuple[str, str]) -> Conversation:
    """Of the messages `before` the completion and those of it, in columns `names`. Raises RowError."""
    prompt = read_messages(before, names[0]) if names[0] else []
    messages = prompt + read_messages(after, names[1])
    muted = frozenset(i for i, m in enumerate(messages) if m.get("weight") == 0 and m["role"] == "assistant")
    told = [{k: v for k, v in m.items() if k != "weight"} for m in messages]
    return Conversation(told, len(prompt), muted, _tools(row), _template_kwargs(row))


def read_messages(value: object, field: str) -> list[Message]:
    """The messages of one column. A plain string is a user's prompt or an assistant's completion. Raises RowError."""
    if isinstance(value, str) and field != "messages":
        return [{"role": "user" if field == "prompt" else "assistant", "content": checked_text(value, field)}]
    if not isinstance(value, list) or (not value and field != "prompt"):
        raise RowError(field, value, "a list of {role, content} that is not empty")
    return [_message(message, f"{field}[{i}]") for i, message in enumerate(value)]


def checked_text(value: object, field: str) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise RowError(field, value, f"a string, not {kind}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(field, ascii(value), "text without halves of surrogate pairs") from None
    return value


def called_names(message: Message) -> list[str]:
    """Names of the functions that a message calls."""
    calls = message.get("tool_calls")
    return [_called(call) or "" for call in calls] if isinstance(calls, list) else []


def thought(message: Message) -> str:
    """The thinking in a field of its own; empty where there is none."""
    return next((t.strip() for name in REASONING if isinstance(t := message.get(name), str)), "")


def has_thinking(message: Message) -> bool:
    return bool(thought(message)) or "</think>" in str(message.get("content"))


def says_something(message: Message) -> bool:
    return bool(str(message.get("content") or "").strip() or called_names(message))


def _message(message: object, field: str) -> Message:
    if not isinstance(message, dict):
        raise RowError(field, message, "an object with role and content")
    if message.get("role") not in ROLES:
        raise RowError(f"{field}.role", message.get("role"), f"one of {', '.join(ROLES)}")
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise RowError(f"{field}.tool_calls", calls, "a list of calls")
    for i, call in enumerate(calls or ()):
        if not _called(call):
            raise RowError(f"{field}.tool_calls[{i}]", call, "an object with a function's name and its arguments")
    if not calls or "content" in message:
        checked_text(message.get("content"), f"{field}.content")
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise RowError(f"{field}.weight", weight, "0, the turn is not trained, or 1")
    return message


def _called(call: object) -> str | None:
    """The name of the function: {function: {name}} as OpenAI writes it, or {name}."""
    if not isinstance(call, dict):
        return None
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _tools(row: Row) -> list[object] | None:
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise RowError("tools", row["tools"], f"a list of tools, or that list as JSON text: {error}") from None
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("tools", tools, "a list of tools, each an object with its JSON schema")
    return tools or None


def _template_kwargs(row: Row) -> dict[str, object]:
    kwargs = row.get("chat_template_kwargs", {})
    if not isinstance(kwargs, dict):
        raise RowError("chat_template_kwargs", kwargs, "an object of what the chat template reads")
    return kwargs
