"""`profile`: step times and memory of a base on this machine."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from mlora_ray.cli.options import JsonOption
from mlora_ray.cli.output import command_line
from mlora_ray.display.console import console
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED


def profile(
    base: Annotated[str, typer.Option(help="An embedded name, a directory or a Hub id.")] = "smollm2-135m",
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, as a host of the profile will have them.")] = 1,
    ranks: Annotated[str, typer.Option(help="LoRA ranks, with commas between.")] = "8,64",
    max_tokens: Annotated[int, typer.Option(help="No group step longer than this; at most 8,192 are measured.")] = 8192,
    repeats: Annotated[int, typer.Option(min=1, help="Group steps of a point; the median counts.")] = 3,
    clock: Annotated[
        str, typer.Option(help="What is fitted: wall, or cpu where one thread shares a busy machine.")
    ] = "wall",
    quick: Annotated[bool, typer.Option("--quick", help="A few points, each once.")] = False,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Also peak memory, in processes.")] = True,
    out: Annotated[str, typer.Option(metavar="FILE", help="Write the profile, JSON that --profile reads.")] = "",
    as_json: JsonOption = False,
) -> int:
    """Measure step times and memory of a base on this CPU, fit their models, print every residual."""
    import datetime

    from mlora_ray.profiling.run import ProfileOptions, numbers, run_profile
    from mlora_ray.profiling.table import print_profile

    options = ProfileOptions(
        base=base,
        dtype=dtype,
        threads=threads,
        ranks=numbers("--ranks", ranks),
        max_tokens=max_tokens,
        repeats=repeats,
        clock=clock,
        is_quick=quick,
        has_memory=memory,
        out=out,
        command=command_line(),
        date=datetime.date.today().isoformat(),
    )
    result = run_profile(options, lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(result))
    else:
        print_profile(result, console(False))
    return EXIT_SUCCEEDED
