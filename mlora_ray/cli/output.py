"""The edge of the command line: errors as lines and exit codes. Nothing heavy is imported."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from mlora_ray.errors import InputError, MloraError
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_MISTAKE

if TYPE_CHECKING:
    from mlora_ray.actors.client import Service


def exits(command: Callable[..., int]) -> Callable[..., None]:
    """A command with an option `as_json` that answers its exit code, as typer calls it."""

    @functools.wraps(command)
    def run(**options: object) -> None:
        with errors_to_exit_code(bool(options["as_json"])):
            raise typer.Exit(command(**options))

    return run


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


@contextmanager
def running_service(address: str, service: str) -> Iterator[Service]:
    """The service of that name, this process a driver of its cluster. Raises InputError when there is none."""
    from mlora_ray.actors.connect import find_service, on_cluster

    with on_cluster(address):
        yield find_service(service)


def command_line() -> str:
    """What this process was called with, to be run again."""
    return shlex.join(["mlora-ray", *sys.argv[1:]])
