"""The command line. Every command says what it was asked, calls one function of a room, and exits with its code.

Nothing heavy is imported here: `mlora-ray --help` answers in under half a second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from mlora_ray import __version__
from mlora_ray.cli.bench import bench_peft
from mlora_ray.cli.explain import explain
from mlora_ray.cli.export import export
from mlora_ray.cli.hosts import drain, hosts
from mlora_ray.cli.jobs import cancel, pause, resume, status
from mlora_ray.cli.logs import events, logs
from mlora_ray.cli.options import ON_A_CLUSTER, PLACEMENT
from mlora_ray.cli.output import exits
from mlora_ray.cli.profile import profile
from mlora_ray.cli.simulate import replay, simulate
from mlora_ray.cli.stop import stop
from mlora_ray.cli.submit import submit
from mlora_ray.cli.train import check, train, verify

app = typer.Typer(
    name="mlora-ray",
    help="Train many LoRA adapters at once on one frozen base, each bit for bit as if it were alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure this machine, beside what others do on it.", no_args_is_help=True)
app.add_typer(bench, name="bench")
bench.command("peft")(exits(bench_peft))

# Under their headings in `--help`, in the order of a job's life, and in that in which one judges placement.
COMMANDS: dict[str | None, tuple[Callable[..., int], ...]] = {
    None: (train, check, verify),
    ON_A_CLUSTER: (submit, status, explain, logs, pause, resume, cancel, export, hosts, drain, events, stop),
    PLACEMENT: (simulate, replay, profile),
}
for heading, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=heading)(exits(command))


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
