"""`submit`: jobs into a running service, which goes on with them when this process has ended."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mlora_ray.cli.options import (
    AUTO,
    DEFAULT_SERVICE,
    AddressOption,
    JobFileArgument,
    JsonLinesOption,
    SettingsOption,
    StartedOption,
)
from mlora_ray.cli.output import command_line
from mlora_ray.display.console import console, print_json, say
from mlora_ray.display.numbers import count
from mlora_ray.display.status_table import print_status, status_json
from mlora_ray.display.tables import counted
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_SUCCEEDED

if TYPE_CHECKING:
    from rich.console import Console

    from mlora_ray.actors.client import Service
    from mlora_ray.types.status import RunStatus


def submit(
    job_file: JobFileArgument,
    address: AddressOption = AUTO,
    service: StartedOption = "",
    storage: Annotated[str, typer.Option(help="Directory or URL that every node reaches. Also $MLORA_STORAGE.")] = "",
    settings: SettingsOption = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Watch the jobs to their end; Ctrl-C ends the watching.")
    ] = False,
    as_json: JsonLinesOption = False,
) -> int:
    """Hand the jobs of JOBFILE to the service, which is started if it is not there. They go on without us."""
    from mlora_ray.actors.connect import on_cluster
    from mlora_ray.config.job_file import read_job_file
    from mlora_ray.run.new_service import Target
    from mlora_ray.run.submit import submit_jobs

    out, jobs = console(as_json), read_job_file(job_file)
    target = Target(service=service, storage=storage, settings_path=settings)
    with on_cluster(address):
        running, specs = submit_jobs(jobs, target, command_line(), out)
        names = [spec.name for spec in specs]
        where = running.settings().storage
        status = _watched(running, names, out) if wait else running.status(names)
    if as_json:
        print_json({"service": running.name, "storage": where} | status_json(status))
    elif wait:
        print_status(status, out)
    else:
        _say_submitted(status, running.name, where, address, out)
    return _end_of_watching(status, where, out) if wait else EXIT_SUCCEEDED


def _watched(running: Service, names: Sequence[str], out: Console) -> RunStatus:
    """To the end of all jobs, or to Ctrl-C."""
    from mlora_ray.run.interrupt import Interrupt
    from mlora_ray.run.watch import watch

    with Interrupt() as interrupt:
        return watch(running, names, interrupt, out)


def _end_of_watching(status: RunStatus, storage: str, out: Console) -> int:
    from mlora_ray.run.watch import exit_code

    if any(not job.state.is_final for job in status.jobs):
        say(out, f"the jobs go on without this process; each goes to {storage}/<job>")
        return EXIT_INTERRUPTED
    say(out, f"adapters are in {storage}/<job>")
    return exit_code(status)


def _say_submitted(status: RunStatus, service: str, storage: str, address: str, out: Console) -> None:
    counts = Counter(str(job.state) for job in status.jobs)
    states = counted({str(state): counts[str(state)] for state in JobState})
    say(out, f"submitted {count(len(status.jobs), 'job')} to service {service!r}: {states}")
    say(out, f"each goes to {storage}/<job>; watch them: {watching_command(service, address)}")


def watching_command(service: str, address: str) -> str:
    """What to paste to watch the jobs: of this service, on this cluster, where these are not what is taken anyway."""
    words = ["mlora-ray", "status", "--watch"]
    words += ["--service", service] if service != DEFAULT_SERVICE else []
    words += ["--address", address] if address != os.environ.get("RAY_ADDRESS", AUTO) else []
    return shlex.join(words)
