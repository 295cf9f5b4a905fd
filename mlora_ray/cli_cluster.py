"""The commands against a running cluster. As in `cli`, nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from mlora_ray.cli.output import command_line, errors_to_exit_code
from mlora_ray.display.console import console

PANEL = "On a cluster"

AddressOption = Annotated[
    str, typer.Option(envvar="RAY_ADDRESS", help="The Ray cluster: host:port, or auto for the one of this machine.")
]
ServiceOption = Annotated[str, typer.Option(help="The placement service; a cluster may have several.")]
StartedOption = Annotated[
    str, typer.Option("--service", help="The placement service. Default: the settings file's name, or mlora.")
]
SettingsOption = Annotated[
    str, typer.Option(metavar="FILE", help="YAML: what a service that is not running yet is started with.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output: one object, or a line an entry.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB")]
JobsArgument = Annotated[list[str], typer.Argument(metavar="JOB...")]
AUTO, DEFAULT_SERVICE = "auto", "mlora"


def add_commands(app: typer.Typer) -> None:
    """In the order of a job's life."""
    for command in (submit, status, explain, logs, pause, resume, cancel, export, hosts, drain, events, stop):
        app.command(rich_help_panel=PANEL)(command)


def submit(
    job_file: Annotated[str, typer.Argument(metavar="JOBFILE", help="YAML file: base, defaults, jobs.")],
    address: AddressOption = AUTO,
    service: StartedOption = "",
    storage: Annotated[str, typer.Option(help="Directory or URL that every node reaches. Also $MLORA_STORAGE.")] = "",
    settings: SettingsOption = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Watch the jobs to their end; Ctrl-C ends the watching.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Hand the jobs of JOBFILE to the service, which is started if it is not there. They go on without us."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.submit import submit as run
        from mlora_ray.run.new_service import Target

        target = Target(service=service, storage=storage, settings_path=settings)
        raise typer.Exit(run(job_file, target, address, command_line(), wait, as_json, console(as_json)))


def status(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="[JOB...]", help="Default: all jobs.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Until they have ended, or Ctrl-C.")] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Where the jobs are: state, steps, loss, host."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.jobs import show_status

        raise typer.Exit(show_status(jobs or [], address, service, watch, as_json, console(False)))


def explain(
    job: JobArgument,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Why a job waits or runs where it does, and when it is expected to start and to end."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.explain import explain as run

        raise typer.Exit(run(job, address, service, as_json, console(False)))


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job has ended, or Ctrl-C.")] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Committed steps of a job, and what happened to it, in order."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.logs import show_logs

        raise typer.Exit(show_logs(job, address, service, follow, as_json, console(False)))


def pause(
    jobs: JobsArgument,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Save jobs at their next step and let them rest."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.jobs import pause as run

        raise typer.Exit(run(jobs, address, service, as_json, console(False)))


def resume(
    jobs: JobsArgument,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Let paused and failed jobs go on from their last committed step."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.jobs import resume as run

        raise typer.Exit(run(jobs, address, service, as_json, console(False)))


def cancel(
    jobs: JobsArgument,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """End jobs for good. What they have committed stays in the storage."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.jobs import cancel as run

        raise typer.Exit(run(jobs, address, service, as_json, console(False)))


def export(
    job: JobArgument,
    to: Annotated[str, typer.Option(help="A new directory, or a URL.")],
    latest: Annotated[
        bool, typer.Option("--latest", help="Of a job that has not ended: its last committed step.")
    ] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Fetch an adapter as a folder that PEFT loads, its hash checked."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.export import export as run

        raise typer.Exit(run(job, to, address, service, latest, as_json, console(False)))


def hosts(
    gone: Annotated[bool, typer.Option("--gone", help="Those that are gone too, and why.")] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """The hosts: where they are, what they hold, how fast they train."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.hosts import show_hosts

        raise typer.Exit(show_hosts(address, service, gone, as_json, console(False)))


def drain(
    target: Annotated[str, typer.Argument(metavar="HOST_OR_NODE", help="A host's name, or the start of a node's id.")],
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Move every adapter off a host or a node, live, and let it go."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.hosts import drain as run

        raise typer.Exit(run(target, address, service, as_json, console(False)))


def events(
    follow: Annotated[bool, typer.Option("--follow", help="Until Ctrl-C.")] = False,
    job: Annotated[str, typer.Option(help="Of this job only.")] = "",
    after: Annotated[str, typer.Option(help="Only what came after the event of this number.")] = "0",
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """What has happened: placed, saved, moved, lost, drained, failed."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.logs import show_events

        raise typer.Exit(show_events(after, job, address, service, follow, as_json, console(False)))


def stop(
    force: Annotated[bool, typer.Option("--force", help="Even where the jobs cannot be saved now.")] = False,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Save every job, leave it PAUSED, and end the service with its hosts. `submit` or `train` goes on."""
    with errors_to_exit_code(as_json):
        from mlora_ray.cli.stop import stop as run

        raise typer.Exit(run(address, service, force, as_json, console(as_json)))
