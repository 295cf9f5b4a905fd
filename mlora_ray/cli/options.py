"""Arguments and options that several commands take, and the headings under which `--help` lists the commands."""

from __future__ import annotations

from typing import Annotated

import typer

ON_A_CLUSTER, PLACEMENT = "On a cluster", "Placement"
AUTO, DEFAULT_SERVICE = "auto", "mlora"

JobFileArgument = Annotated[str, typer.Argument(metavar="JOBFILE", help="YAML file: base, defaults, jobs.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB")]
JobsArgument = Annotated[list[str], typer.Argument(metavar="JOB...")]
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
ProfilesOption = Annotated[
    list[str] | None,
    typer.Option("--profile", help="Step times: a name that ships, or a file. Several: several bases."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as one JSON object on standard output.")]
JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="JSON on standard output: one object, or a line an entry.")
]
