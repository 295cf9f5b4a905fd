"""`train`, `check` and `verify`: jobs on this machine, or followed on a cluster."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mlora_ray.cli.options import JobFileArgument, JsonOption, SettingsOption, StartedOption
from mlora_ray.cli.output import command_line
from mlora_ray.display.console import console
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED


def train(
    job_file: JobFileArgument,
    out: Annotated[
        str, typer.Option(help="Directory of the adapters, metrics and report. With --address the service's storage.")
    ] = "",
    address: Annotated[
        str, typer.Option(help="A running Ray cluster, or auto; without it one of our own, on this machine.")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR, to the same bits.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the run in DIR and begin anew.")] = False,
    max_memory: Annotated[str, typer.Option(help="Memory limit, such as 8GB. Default: 80% of what there is.")] = "",
    adapter_memory: Annotated[str, typer.Option(help="Part of it for adapters; the others wait on disk.")] = "",
    token_budget: Annotated[int, typer.Option(min=0, help="Tokens of one packed step. 0: chosen.")] = 0,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads of a host. 0: all cores. Part of what decides the bits.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    policy: Annotated[str, typer.Option(help="Placement policy: a name, or module:Class. Default: fifo.")] = "",
    settings: SettingsOption = "",
    service: StartedOption = "",
    as_json: JsonOption = False,
) -> int:
    """Train every job of JOBFILE. Exits 0, 1 (mistake in the input), 3 (some jobs failed) or 130 (interrupted)."""
    from mlora_ray.config.sizes import parse_bytes
    from mlora_ray.run.options import TrainOptions
    from mlora_ray.run.train import train as run

    options = TrainOptions(
        job_file=job_file,
        out=out,
        command=command_line(),
        address=address,
        is_resume=resume,
        is_overwrite=overwrite,
        memory_limit_bytes=parse_bytes(max_memory, "--max-memory"),
        adapter_memory_bytes=parse_bytes(adapter_memory, "--adapter-memory"),
        token_budget=token_budget,
        threads=threads,
        device=device,
        policy=policy,
        is_json=as_json,
    )
    return run(options, settings, service, console(as_json))


def check(job_file: JobFileArgument, as_json: JsonOption = False) -> int:
    """Say what JOBFILE would run: rows, tokens, steps, memory and time; or all its mistakes. Trains nothing."""
    from mlora_ray.config.job_file import read_job_file
    from mlora_ray.prepare.cost_estimate import check_report, check_table
    from mlora_ray.prepare.job_specs import prepare

    report = check_report(prepare(read_job_file(job_file), None))
    if as_json:
        print(json.dumps(report))
    else:
        console(False).print(check_table(report))
    return EXIT_SUCCEEDED


def verify(
    job_dir: Annotated[str, typer.Argument(metavar="DIR/JOB", help="Folder of one finished job.")],
    force: Annotated[bool, typer.Option("--force", help="Compare even on another machine or other versions.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Train a finished job again, alone, and compare. Exits 0 (identical) or 4 (says what differs first)."""
    from mlora_ray.run.verify import run_verify

    return run_verify(job_dir, force, as_json)
