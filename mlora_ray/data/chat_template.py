"""The base's chat template, with the tools and settings of one conversation."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from mlora_ray.data.conversation import Conversation, Message
from mlora_ray.data.row_formats import REASONING, RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]  # characters [start, end)
TEMPLATE_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
GENERATION_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


def has_generation_marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(tokenizer.chat_template and GENERATION_MARK.search(tokenizer.get_chat_template()))


class ChatTemplate:
    """Renders parts of `talk` as transformers does: every field of every message, `tools`, the row's own settings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, talk: Conversation) -> None:
        self.tokenizer, self.talk = tokenizer, talk
        taken = inspect.signature(tokenizer.apply_chat_template).parameters.keys() - {"documents", "kwargs"}
        if clash := sorted(taken & talk.template_kwargs.keys()):
            raise RowError("chat_template_kwargs", clash[0], "names that the template reads, not what calls it")

    @property
    def special_tokens(self) -> list[str]:
        """Longest first."""
        return sorted(map(str, self.tokenizer.all_special_tokens), key=len, reverse=True)

    @property
    def reads_reasoning(self) -> bool:
        return any(name in self.tokenizer.get_chat_template() for name in REASONING)

    def text(self, messages: list[Message], add_generation_prompt: bool) -> str:
        """Raises RowError where the template does not take these messages."""
        import jinja2

        talk = self.talk
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=talk.tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **talk.template_kwargs,
            )
        except (*TEMPLATE_ERRORS, jinja2.TemplateError) as error:
            roles = " ".join(str(m["role"]) for m in messages)
            raise RowError("messages", roles, f"turns the chat template takes: {error}") from None
        return str(text)

    def marked(self, text: str) -> list[Span] | None:
        """What the template encloses in {% generation %} marks; None where it has none, or another text."""
        from transformers.utils.chat_template_utils import render_jinja_template

        if not has_generation_marks(self.tokenizer):
            return None
        rendered, spans = render_jinja_template(
            conversations=[self.talk.messages],
            tools=self.talk.tools,
            chat_template=self.tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **(self.tokenizer.special_tokens_map | self.talk.template_kwargs),
        )
        return [(int(start), int(end)) for start, end in spans[0]] if rendered[0] == text else None
