"""`python -m mlora_ray.simulate run TRACE [options]` and `... replay LOG --policy NAME`."""

from __future__ import annotations

import argparse
import shlex
import sys

from mlora_ray.errors import MloraError
from mlora_ray.simulate.command import DEFAULT_POLICIES, SimulateOptions, simulate
from mlora_ray.simulate.replay import describe, replay


def main(arguments: list[str]) -> int:
    """0 when all is well, 1 for wrong input, 2 when a replayed policy answers otherwise than the log."""
    held = _parser().parse_args(arguments)
    try:
        if held.command == "replay":
            num, found = replay(held.log, held.policy)
            print("\n".join(describe(num, found, held.policy)))
            return 2 if found else 0
        simulate(_options(held, arguments))
    except MloraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlora_ray.simulate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    again = commands.add_parser("replay", help="ask a policy what a decision log asked")
    again.add_argument("log")
    again.add_argument("--policy", default="fifo")
    run = commands.add_parser("run", help="simulate policies on a trace")
    run.add_argument(
        "trace", nargs="?", default="synthetic:philly", help="philly:FILE, helios:FILE, acme:FILE, jsonl:FILE"
    )
    run.add_argument("--policies", default=",".join(DEFAULT_POLICIES))
    run.add_argument("--profile", action="append", help="a shipped name or a file; several are several bases")
    run.add_argument("--load", default="0.9", help="offered work over what the hosts do alone; 0: the trace as it is")
    run.add_argument("--regime", default="700", help="mean tokens of a step")
    run.add_argument("--hosts", type=int, default=16)
    run.add_argument("--windows", type=int, default=3)
    run.add_argument("--jobs", type=int, default=600, help="of a window")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--days", type=float, default=1.0, help="longer jobs are left out")
    run.add_argument("--set-b", action="store_true", help="ranks 8 to 64")
    run.add_argument("--lengths", default="", help="CSV of row lengths")
    run.add_argument("--size-sigma", type=float, default=0.0, help="lognormal error of the sizes told")
    run.add_argument("--unknown-sizes", action="store_true")
    run.add_argument("--json", action="store_true")
    run.add_argument("--out", default="", help="folder for jobs.parquet, report.html and simulation.json")
    return parser


def _options(held: argparse.Namespace, arguments: list[str]) -> SimulateOptions:
    return SimulateOptions(
        trace=held.trace,
        policies=tuple(held.policies.split(",")),
        profiles=tuple(held.profile or ("h100-llama-3.1-8b",)),
        loads=tuple(float(x) for x in held.load.split(",")),
        regimes=tuple(float(x) for x in held.regime.split(",")),
        hosts=held.hosts,
        windows=held.windows,
        jobs=held.jobs,
        seed=held.seed,
        days=held.days,
        is_set_b=held.set_b,
        lengths=held.lengths,
        size_sigma=held.size_sigma,
        is_size_known=not held.unknown_sizes,
        is_json=held.json,
        out=held.out,
        command=shlex.join(["python", "-m", "mlora_ray.simulate", *arguments]),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
