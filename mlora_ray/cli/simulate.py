"""The commands that judge placement without a cluster. As in `cli`, nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from mlora_ray.cli.output import command_line, errors_to_exit_code
from mlora_ray.cli.profile import profile

PANEL = "Placement"

JsonOption = Annotated[bool, typer.Option("--json", help="The result as one JSON object on standard output.")]
ProfilesOption = Annotated[
    list[str] | None,
    typer.Option("--profile", help="Step times: a name that ships, or a file. Several: several bases."),
]


def add_commands(app: typer.Typer) -> None:
    """In the order in which they are used."""
    for command in (simulate, replay, profile):
        app.command(rich_help_panel=PANEL)(command)


def simulate(
    trace: Annotated[
        str,
        typer.Argument(metavar="TRACE", help="synthetic:philly, or philly:FILE, helios:FILE, acme:FILE, jsonl:FILE."),
    ] = "synthetic:philly",
    policies: Annotated[str, typer.Option(help="Names or module:Class, with commas between. Default: all.")] = "",
    load: Annotated[
        str, typer.Option(help="Work offered over what the hosts do alone; 0: the trace as it is.")
    ] = "0.9",
    regime: Annotated[str, typer.Option(help="Mean tokens of an adapter's step.")] = "700",
    hosts: Annotated[int, typer.Option(help="Devices.")] = 16,
    windows: Annotated[int, typer.Option(help="Windows of two weeks, drawn at random.")] = 3,
    jobs: Annotated[int, typer.Option(help="Jobs of a window.")] = 600,
    seed: Annotated[int, typer.Option(help="Of the first window.")] = 0,
    days: Annotated[float, typer.Option(help="Longer jobs are left out.")] = 1.0,
    set_b: Annotated[bool, typer.Option("--set-b", help="Ranks 8 to 64 in place of 2 to 16.")] = False,
    lengths: Annotated[str, typer.Option(metavar="FILE", help="CSV of row lengths, as Azure publishes them.")] = "",
    size_sigma: Annotated[float, typer.Option(help="Lognormal error of the sizes that policies are told.")] = 0.0,
    unknown_sizes: Annotated[bool, typer.Option("--unknown-sizes", help="Policies are told no sizes.")] = False,
    profile: ProfilesOption = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Also jobs.parquet, report.html and simulation.json.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Placement policies on a trace: completion times, bounds, fairness. `--load` and `--regime` take lists."""
    with errors_to_exit_code(as_json):
        from mlora_ray.simulate.run import DEFAULT_POLICIES, SimulateOptions, numbers
        from mlora_ray.simulate.run import simulate as run

        options = SimulateOptions(
            trace=trace,
            policies=tuple(policies.split(",")) if policies else DEFAULT_POLICIES,
            profiles=tuple(profile or ("h100-llama-3.1-8b",)),
            loads=numbers("load", load),
            regimes=numbers("regime", regime),
            hosts=hosts,
            windows=windows,
            jobs=jobs,
            seed=seed,
            days=days,
            is_set_b=set_b,
            lengths=lengths,
            size_sigma=size_sigma,
            is_size_known=not unknown_sizes,
            is_json=as_json,
            out=out,
            command=command_line(),
        )
        run(options)


def replay(
    log: Annotated[str, typer.Argument(metavar="LOG", help="decisions.jsonl of a run or a service.")],
    policy: Annotated[str, typer.Option(help="Another than the log's own, which must answer the same: what if.")] = "",
    profile: ProfilesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a policy again what a decision log asked. Exits 0 (identical) or 4 (says which decisions differ)."""
    with errors_to_exit_code(as_json):
        from mlora_ray.simulate.replay import run_replay

        raise typer.Exit(run_replay(log, policy, profile or [], as_json))
