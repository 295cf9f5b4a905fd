"""`simulate` and `replay`: placement judged without a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from mlora_ray.cli.options import JsonOption, ProfilesOption
from mlora_ray.cli.output import command_line
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED


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
) -> int:
    """Placement policies on a trace: completion times, bounds, fairness. `--load` and `--regime` take lists."""
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
    return EXIT_SUCCEEDED


def replay(
    log: Annotated[str, typer.Argument(metavar="LOG", help="decisions.jsonl of a run or a service.")],
    policy: Annotated[str, typer.Option(help="Another than the log's own, which must answer the same: what if.")] = "",
    profile: ProfilesOption = None,
    as_json: JsonOption = False,
) -> int:
    """Ask a policy again what a decision log asked. Exits 0 (identical) or 4 (says which decisions differ)."""
    from mlora_ray.simulate.replay import run_replay

    return run_replay(log, policy, profile or [], as_json)
