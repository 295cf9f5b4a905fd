"""The edge of the command line: errors as lines and exit codes, and where to write. Nothing heavy is imported."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from mlora_ray.errors import InputError, MloraError
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_MISTAKE

if TYPE_CHECKING:
    pass


@contextmanager
def errors_to_exit_code(as_json: bool) -> Iterator[None]:
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


def command_line() -> str:
    """What this process was called with, to be run again."""
    return shlex.join(["mlora-ray", *sys.argv[1:]])
