"""`train`: in a cluster of its own, or on a running one; from there on both are the same."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mlora_ray.config.job_file import read_job_file
from mlora_ray.display.console import say
from mlora_ray.display.numbers import count
from mlora_ray.errors import MloraError, command_line_mistake
from mlora_ray.run.finish import finish, save
from mlora_ray.run.options import TrainOptions
from mlora_ray.run.session import Started, TrainSession
from mlora_ray.run.watch import NotBegun, watch
from mlora_ray.types.exit_codes import EXIT_SOME_FAILED

if TYPE_CHECKING:
    from rich.console import Console


def train(options: TrainOptions, settings_path: str, service: str, out: Console) -> int:
    """Answers the exit code. Raises InputError before any training."""
    if options.address:
        return _on_cluster(options, settings_path, service, out)
    if settings_path:
        raise command_line_mistake(
            "--settings", settings_path, "given with --address only: a cluster of our own needs none"
        )
    if not options.out:
        raise command_line_mistake("--out", "", "a directory for the adapters; or --address of a running cluster")
    from mlora_ray.run.local import private_session

    started, job_file = Started(), read_job_file(options.job_file)
    options = dataclasses.replace(options, policy=options.policy or "fifo")
    with private_session(job_file, options, started) as session:
        return drive(session, options.is_json, out)


def _on_cluster(options: TrainOptions, settings_path: str, service: str, out: Console) -> int:
    from mlora_ray.actors.connect import on_cluster
    from mlora_ray.run.remote import shared_session, target_of

    started, target = Started(), target_of(options, settings_path, service)
    job_file = read_job_file(options.job_file)
    with on_cluster(options.address):
        session = shared_session(job_file, target, options.command, started, out)
        return drive(session, options.is_json, out)


def drive(session: TrainSession, as_json: bool, out: Console) -> int:
    """Start, watch, then sum up or save; answers the exit code.

    Raises MloraError where nothing was begun, or where a service that others use has failed.
    """
    is_private = session.service.is_private
    with session.interrupt:
        session.start()
        if not is_private:
            jobs = count(len(session.names), "job")
            say(out, f"{jobs} on service {session.service.name!r}, to {session.storage}")
        try:
            status = watch(session.service, session.names, session.interrupt, out)
            code = None if session.interrupt.is_set else finish(session, status, as_json, out)
            code = save(session, out) if code is None else code
            session.end()
        except NotBegun:
            raise
        except MloraError as error:
            if not is_private:
                raise
            say(out, f"the run stopped: {error}; go on with: {session.again}")
            return EXIT_SOME_FAILED
        return code
