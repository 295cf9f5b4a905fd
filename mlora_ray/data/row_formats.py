"""Which columns of a row mean what: the formats, the names a job file gives, and a row's own mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlora_ray.data.sources import DataFile

Row = dict[str, object]
FORMATS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt/completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}
OF_A_TEMPLATE = ("tools", "chat_template_kwargs")  # columns that the chat template reads beside the messages
OPTIONAL: dict[str, tuple[str, ...]] = {
    "messages": OF_A_TEMPLATE,
    "prompt/completion": OF_A_TEMPLATE,
    "alpaca": ("input",),
    "text": (),
}
KNOWN_FORMATS = "messages | prompt + completion | instruction (+ input) + output | text"
REASONING = ("reasoning_content", "reasoning", "thinking")  # transformers gives a template each under all three names
COLUMN_NAMES = tuple(dict.fromkeys(name for form in FORMATS for name in (*FORMATS[form], *OPTIONAL[form])))
HOW_TO_MAP = "other names are mapped in the job file, as in columns: {prompt: question, completion: answer}"


class RowError(Exception):
    """One row's own mistake: field, value, what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field}: {value!r} — {allowed}")


def renamed(value: object, file: DataFile) -> object:
    """The row under our column names. A column that took another's name hides the one that had it."""
    if not isinstance(value, dict):
        return value
    names = _names(value, file)
    if not names:
        return value
    rest = {k: v for k, v in value.items() if k not in names and k not in names.values()}
    return rest | {name: value[column] for name, column in names.items() if column in value}


def _names(value: Mapping[str, object], file: DataFile) -> dict[str, str]:
    names = dict(file.columns)
    if file.text_field in value:
        names.setdefault("text", file.text_field)
    return names


def format_of(value: object, file: DataFile, preferred: str | None = None) -> str | None:
    """The format of a row under our names.

    `preferred` if its columns are all there, or else the first that fits; one whose columns the job file names is
    before the others.
    """
    if not isinstance(value, dict):
        return None
    found = [name for name, columns in FORMATS.items() if all(c in value for c in columns)]
    asked = [name for name, _ in file.columns] + (["text"] if file.text_field and "text" in value else [])
    found = [name for name in found if set(asked) & set(FORMATS[name])] or found
    return preferred if preferred in found else (found[0] if found else None)


def checked(value: object, first: str, file: DataFile) -> Row:
    """A row of the file's format. Raises RowError."""
    if not isinstance(value, dict):
        raise RowError("row", value, f"an object with the columns {KNOWN_FORMATS}")
    found = format_of(value, file, first)
    if found == first:
        return value
    shown = ", ".join(map(str, value))
    missing = [column for column in FORMATS[first] if column not in value]
    if found is None and len(missing) < len(FORMATS[first]):
        column = dict(file.columns).get(missing[0], missing[0])
        raise RowError(column, "", f"a value, not null or nothing: the rows of this file are {first}")
    allowed = f"{first}, the format of the first row" if found else f"{KNOWN_FORMATS}; {HOW_TO_MAP}"
    raise RowError("fields", shown, allowed)


def missing_columns(values: Iterable[object], file: DataFile) -> list[tuple[str, str, str]]:
    """(field, column, what is allowed) of each column the job file names and no row has."""
    seen: dict[str, None] = {}
    for value in values:
        seen.update(dict.fromkeys(value if isinstance(value, dict) else ()))
    allowed = f"a column of {file}, which has {', '.join(map(str, seen)) or 'none'}"
    return [(f"columns.{name}", column, allowed) for name, column in file.columns if column not in seen]


def unread(rows: Iterable[Row], row_format: str, template: str) -> tuple[str, ...]:
    """What the rows hold and nothing reads: columns, and fields of messages that the chat template does not name."""
    columns: dict[str, None] = {}
    in_messages: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
        for name in FORMATS[row_format]:
            messages = row[name]
            for message in messages if isinstance(messages, list) else ():
                in_messages.update(dict.fromkeys(message))
    known = (*FORMATS[row_format], *(n for n in OPTIONAL[row_format] if n != "tools" or "tools" in template))
    unknown = [str(name) for name in columns if name not in known]
    read = {"role", "content", "weight"} | {name for name in map(str, in_messages) if name in template}
    if any(name in template for name in REASONING):
        read |= set(REASONING)
    return (*unknown, *(f"messages[].{name}" for name in in_messages if name not in read))
