"""`bench peft`: the benchmark that ships."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mlora_ray.cli.options import JsonOption
from mlora_ray.display.console import console
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED


def bench_peft(
    data: Annotated[str, typer.Option(help="Directory of row files to use in place of the built-in workloads.")] = "",
    workload: Annotated[str, typer.Option(help="One workload: mixed or batch1. Default: both.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; figures are medians.")] = 3,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32, on both sides.")] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, on both sides.")] = 1,
    base: Annotated[str, typer.Option(help="Base of both sides.")] = "smollm2-135m",
    steps: Annotated[int, typer.Option(min=0, help="Optimizer steps a job. 0: the workload's own.")] = 0,
    as_json: JsonOption = False,
) -> int:
    """The same jobs through PEFT and through us: tokens per CPU second, memory, share of the GEMM rate."""
    from mlora_ray.benchmarks.peft import print_table, run

    result = run(
        data=data or None, workload=workload, repeats=repeats, dtype=dtype, threads=threads, base=base, steps=steps
    )
    if as_json:
        print(json.dumps(result))
    else:
        print_table(result, console(False))
    return EXIT_SUCCEEDED
