"""The command line. Every command says what it was asked, calls one function of a room, and exits with its code.

Nothing heavy is imported here: `mlora-ray --help` answers in under half a second.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from mlora_ray import __version__
from mlora_ray.cli import simulate
from mlora_ray.cli.output import command_line, errors_to_exit_code
from mlora_ray.cli_cluster import SettingsOption, StartedOption, add_commands
from mlora_ray.display.console import console

app = typer.Typer(
    name="mlora-ray",
    help="Train many LoRA adapters at once on one frozen base, each bit for bit as if it were alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench_app = typer.Typer(help="Measure this machine, beside what others do on it.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

JobFileArgument = Annotated[str, typer.Argument(metavar="JOBFILE", help="YAML file: base, defaults, jobs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as one JSON object on standard output.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    """Train many LoRA adapters at once on one frozen base, each bit for bit as if it were alone."""
    if version:
        print(__version__)
        raise typer.Exit
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that a policy of the user's own, module:Class, is found
    # Waiting threads do not spin: a row on two threads of two busy cores took 3.1 s, not 6.3, and a third of the CPU.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


add_commands(app)
simulate.add_commands(app)


@app.command()
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
) -> None:
    """Train every job of JOBFILE. Exits 0, 1 (mistake in the input), 3 (some jobs failed) or 130 (interrupted)."""
    with errors_to_exit_code(as_json):
        from mlora_ray.config.sizes import parse_bytes
        from mlora_ray.run.options import TrainOptions
        from mlora_ray.run.train import train as run_train

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
        raise typer.Exit(run_train(options, settings, service, console(as_json)))


@app.command()
def check(job_file: JobFileArgument, as_json: JsonOption = False) -> None:
    """Say what JOBFILE would run: rows, tokens, steps, memory and time; or all its mistakes. Trains nothing."""
    with errors_to_exit_code(as_json):
        from mlora_ray.config.job_file import read_job_file
        from mlora_ray.prepare.cost_estimate import check_report, check_table
        from mlora_ray.prepare.job_specs import prepare

        report = check_report(prepare(read_job_file(job_file), None))
        if as_json:
            print(json.dumps(report))
        else:
            console(False).print(check_table(report))


@app.command()
def verify(
    job_dir: Annotated[str, typer.Argument(metavar="DIR/JOB", help="Folder of one finished job.")],
    force: Annotated[bool, typer.Option("--force", help="Compare even on another machine or other versions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a finished job again, alone, and compare. Exits 0 (identical) or 4 (says what differs first)."""
    with errors_to_exit_code(as_json):
        from mlora_ray.run.verify import run_verify

        raise typer.Exit(run_verify(job_dir, force, as_json))


@bench_app.command("peft")
def bench_peft(
    data: Annotated[str, typer.Option(help="Directory of row files to use in place of the built-in workloads.")] = "",
    workload: Annotated[str, typer.Option(help="One workload: mixed or batch1. Default: both.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; figures are medians.")] = 3,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32, on both sides.")] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, on both sides.")] = 1,
    base: Annotated[str, typer.Option(help="Base of both sides.")] = "smollm2-135m",
    steps: Annotated[int, typer.Option(min=0, help="Optimizer steps a job. 0: the workload's own.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """The same jobs through PEFT and through us: tokens per CPU second, memory, share of the GEMM rate."""
    with errors_to_exit_code(as_json):
        from mlora_ray.benchmarks.peft import print_table, run

        result = run(
            data=data or None, workload=workload, repeats=repeats, dtype=dtype, threads=threads, base=base, steps=steps
        )
        if as_json:
            print(json.dumps(result))
        else:
            print_table(result, console(False))
