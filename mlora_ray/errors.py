"""Errors a person reads. Each says where, what was found and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One mistake in the input, said as one sentence: `file:line: job "a": r must be at most 32 (found 64)`."""

    file: str
    field: str
    value: str
    allowed: str  # ends the sentence that field and verb begin
    line: int = 0
    job: str = ""
    verb: str = "must be"  # or is, has, must ...: what goes before `allowed`

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        whose = f'job "{_plain(self.job)}": ' if self.job else ""
        found = f" (found {_plain(self.value)})" if self.value else ""
        return f"{where}: {whose}{self.field} {self.verb} {self.allowed}{found}"


def _plain(text: str) -> str:
    """One line, whatever a file holds."""
    return text if text.isprintable() else repr(text)


class MloraError(Exception):
    """Any error of ours that is the caller's to mend."""


class InputError(MloraError):
    """All mistakes of an input at once; the CLI prints each and exits 1."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(m) for m in mistakes))

    def __reduce__(self) -> tuple[type[InputError], tuple[list[Mistake]]]:
        """Between processes the mistakes travel, not their text."""
        return type(self), (self.mistakes,)


class JobError(MloraError):
    """One adapter's own failure. It never touches its neighbours."""


class StorageError(MloraError):
    """A bundle or output could not be written or read; the last good bundle stays."""


class DatabaseError(MloraError):
    """The control database cannot be read or written (full disk, no connection)."""


class DatabaseRefused(DatabaseError):
    """It can be read, but is not for this service; waiting changes nothing."""


class DatabaseInUse(DatabaseRefused):
    """Another service is at work on this database."""


class LeaseLost(DatabaseError):
    """Another placement service writes to this database now; nothing of ours was written."""


class BaseDiffers(MloraError):
    """Two nodes hold different weights under one base's name: their bits could not be the same."""


def mistake_in(file: str, field: str, value: str, allowed: str, verb: str = "must be") -> InputError:
    """One mistake of a file, a base or a command line, to be raised."""
    return InputError([Mistake(file=file, field=field, value=value, allowed=allowed, verb=verb)])


def command_mistake(field: str, value: str, allowed: str, verb: str = "must be") -> Mistake:
    return Mistake(file="command line", field=field, value=value, allowed=allowed, verb=verb)


def command_line_mistake(field: str, value: str, allowed: str, verb: str = "must be") -> InputError:
    """An option that cannot be taken, to be raised."""
    return InputError([command_mistake(field, value, allowed, verb)])
