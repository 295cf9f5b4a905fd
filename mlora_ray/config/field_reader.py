"""One YAML document, checked field by field: pydantic says what is wrong, this says where, and collects it all."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mlora_ray.config.field_types import described
from mlora_ray.config.yaml_lines import Document, KeyPath, Value, dotted
from mlora_ray.errors import Mistake

NEAR = 0.8  # similarity from which one name is taken for another: exclude_modules and target_modules have 0.62


class FieldReader:
    """Collects the mistakes of one document.

    `synonyms`: names of others, and what they are called here. `known`: names of others that are known, if only to be
    refused: the nearest name is looked for among them too.
    """

    def __init__(
        self,
        path: Path,
        document: Document,
        mistakes: list[Mistake],
        synonyms: Mapping[str, str] | None = None,
        known: tuple[str, ...] = (),
    ) -> None:
        self.path, self.document, self.mistakes = path, document, list(mistakes)
        self.jobs: dict[KeyPath, str] = {}  # where a job stands, and its name
        self._synonyms, self._known = synonyms or {}, known
        self._said: set[Mistake] = set()  # one of the defaults may be found with every job

    def validated(
        self,
        model: type,
        value: Mapping[str, Value],
        at: KeyPath,
        also: tuple[str, ...] = (),
        written: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Fields that were set, by pydantic; a mistake for each that does not fit.

        `model` is a TypedDict. `also`: names to suggest, too. `written`: a field's name in the file, if it is another.
        """
        names = names_of(model)
        for name in [k for k in value if k not in names]:
            self.unknown((*at, name), name, value[name], (*names, *also))
        given = {k: v for k, v in value.items() if k in names}
        try:
            return dict(_adapter(model).validate_python(given))
        except ValidationError as error:
            bad = set()
            for item in error.errors(include_url=False):
                path = tuple(p for p in item["loc"] if not isinstance(p, str) or p in names or p in given)
                bad.add(path[0] if path else "")
                shown = tuple((written or {}).get(str(p), p) if i == 0 else p for i, p in enumerate(path))
                self._add_error((*at, *shown), item)
            return self._rest(model, given, {str(b) for b in bad})

    def _rest(self, model: type, given: dict[str, Value], bad: set[str]) -> dict[str, Any]:
        """What is right beside the mistakes, so that checks of fields together still run."""
        try:
            return dict(_adapter(model).validate_python({k: v for k, v in given.items() if k not in bad}))
        except ValidationError:
            return {}

    def _add_error(self, at: KeyPath, item: Any) -> None:
        """pydantic's message as what is allowed."""
        if item["type"] == "missing":
            return self.add(at, dotted(at), "", "required", verb="is")
        is_type = item["type"].endswith("_type")  # the type is wrong: '8' and 8 would look alike
        message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
        if item["type"] == "string_too_short":
            message = "a text that is not empty"
        self.add(at, dotted(at), described(item["input"]) if is_type else show_value(item["input"]), message)

    def unknown(self, at: KeyPath, name: str, value: Value, allowed: tuple[str, ...]) -> None:
        guess = self._synonyms.get(name) or next(
            iter(difflib.get_close_matches(name, (*allowed, *self._known), 1, NEAR)), None
        )
        hint = f"did you mean {guess}?" if guess else f"allowed: {', '.join(allowed) or 'none here'}"
        self.add(at, dotted(at), show_value(value), f"an unknown field; {hint}", verb="is")

    def add(self, at: KeyPath, field: str, value: str, allowed: str, verb: str = "must be") -> None:
        """A mistake at `at`; what lies inside a job is named from there."""
        line = self.document.line(at)
        found = Mistake(file=str(self.path), line=line, field=field, value=value, allowed=allowed, verb=verb)
        if job := self.jobs.get(at[:2]):
            found = _of_job(found, at[:2], job)
        if found not in self._said:
            self._said.add(found)
            self.mistakes.append(found)

    def name_jobs(self, jobs: dict[KeyPath, str]) -> None:
        """From now on, and in what the document's own reader found, a mistake inside a job has its name."""
        self.jobs = jobs
        heads = {dotted(at): at for at in jobs}
        for number, one in enumerate(self.mistakes):
            if at := heads.get(one.field.partition(".")[0]):
                self.mistakes[number] = _of_job(one, at, jobs[at])


def _of_job(mistake: Mistake, at: KeyPath, job: str) -> Mistake:
    field = mistake.field.removeprefix(dotted(at)).removeprefix(".") or "job"
    return dataclasses.replace(mistake, job=job, field=field)


@functools.cache
def _adapter(model: type) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def names_of(model: type) -> tuple[str, ...]:
    """The fields of a TypedDict."""
    return tuple(model.__annotations__)


def show_value(value: object) -> str:
    """As YAML has it, at most 80 characters of it."""
    text = value if isinstance(value, str) else described(value) if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
