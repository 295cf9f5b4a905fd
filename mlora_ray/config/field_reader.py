"""One YAML document, checked field by field: pydantic says what is wrong, this says where, and collects it all."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from mlora_ray.config.field_types import described
from mlora_ray.config.yaml_lines import Document, KeyPath, Value, dotted
from mlora_ray.errors import Mistake


class FieldReader:
    """Collects the mistakes of one document. `synonyms`: names of others, and what they are called here."""

    def __init__(
        self, path: Path, document: Document, mistakes: list[Mistake], synonyms: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.document, self.mistakes = path, document, list(mistakes)
        self._synonyms = synonyms or {}

    def validated(
        self, model: type[BaseModel], value: Mapping[str, Value], at: KeyPath, also: tuple[str, ...] = ()
    ) -> dict:
        """Fields that were set, by pydantic; a mistake for each that does not fit. `also`: names to suggest, too."""
        for name in [k for k in value if k not in model.model_fields]:
            self.unknown((*at, name), name, value[name], (*model.model_fields, *also))
        given = {k: v for k, v in value.items() if k in model.model_fields}
        try:
            return model.model_validate(given).model_dump(exclude_unset=True)
        except ValidationError as error:
            bad = set()
            for item in error.errors(include_url=False):
                path = tuple(p for p in item["loc"] if not isinstance(p, str) or p in model.model_fields or p in given)
                bad.add(path[0] if path else "")
                shown = "" if item["type"] == "missing" else show_value(item["input"])
                self.add((*at, *path), dotted((*at, *path)), shown, _allowed(item))
            return self._rest(model, given, {str(b) for b in bad})

    def _rest(self, model: type[BaseModel], given: dict[str, Value], bad: set[str]) -> dict:
        """What is right beside the mistakes, so that checks of fields together still run."""
        good = {k: v for k, v in given.items() if k not in bad}
        try:
            return model.model_validate(good).model_dump(exclude_unset=True)
        except ValidationError:
            return {}

    def unknown(self, at: KeyPath, name: str, value: Value, allowed: tuple[str, ...]) -> None:
        guess = self._synonyms.get(name) or next(iter(difflib.get_close_matches(name, allowed, 1, 0.6)), None)
        hint = f"did you mean {guess}?" if guess else f"allowed: {', '.join(allowed)}"
        self.add(at, dotted(at), show_value(value), f"unknown field; {hint}")

    def add(self, at: KeyPath, field: str, value: str, allowed: str) -> None:
        line = self.document.line(at)
        self.mistakes.append(Mistake(file=str(self.path), field=field, value=value, allowed=allowed, line=line))


def show_value(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _allowed(item: object) -> str:
    """pydantic's message as what is allowed."""
    assert isinstance(item, dict)
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if str(item["type"]).endswith("_type"):  # the type is wrong: '8' and 8 would look alike
        return f"{message}, not {described(item['input'])}"
    return "required" if item["type"] == "missing" else message
