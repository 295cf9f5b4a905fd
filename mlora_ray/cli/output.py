"""The edge of the command line: errors as lines and exit codes, and where to write. Nothing heavy is imported."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from mlora_ray.errors import InputError, Mistake, MloraError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_SUCCEEDED, EXIT_MISTAKE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 1, 3, 130


@contextmanager
def said_plainly(as_json: bool) -> Iterator[None]:
    """Errors that are the caller's to mend become lines on standard error, with --json also one object; exit 1."""
    try:
        yield
    except InputError as error:
        if as_json:
            print(json.dumps({"mistakes": [asdict(m) for m in error.mistakes]}))
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        raise typer.Exit(EXIT_MISTAKE) from error
    except MloraError as error:
        if as_json:
            print(json.dumps({"error": str(error)}))
        print(error, file=sys.stderr)
        raise typer.Exit(EXIT_MISTAKE) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(EXIT_INTERRUPTED) from error


def console(to_stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=to_stderr)


def command_line() -> str:
    """What this process was called with, to be run again."""
    return shlex.join(["mlora-ray", *sys.argv[1:]])


def say(out: Console, line: str) -> None:
    """One line, as it is: no markup, no wrapping."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One line of strict JSON on standard output, at once: whoever follows reads it now."""
    from mlora_ray.store.run_files import finite

    print(json.dumps(finite(value), ensure_ascii=False), flush=True)


def mistake(field: str, value: str, allowed: str) -> InputError:
    return InputError([command_mistake(field, value, allowed)])


def command_mistake(field: str, value: str, allowed: str) -> Mistake:
    return Mistake(file="command line", field=field, value=value, allowed=allowed)
