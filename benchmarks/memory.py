"""`python -m mlora_ray.benchmarks.memory`: what 32 resident adapters cost, beside 32 PEFT processes.

One process trains one adapter through full packed rows (base, activations and scratch are then all there), then 31 more
come in and every one takes its steps. The growth of the process over the first phase, by resident size and by its peak,
is divided by 31 and compared with an adapter's own bytes: fp32 weights and two Adam moments.

A PEFT process is measured by what it alone holds (USS) while a second one runs, since file pages are shared; the sum
for 32 is the mean of the two times 32, and says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlora_ray.benchmarks import workloads
from mlora_ray.benchmarks.peft import Bench
from mlora_ray.display.numbers import show_bytes
from mlora_ray.profiling import measure
from mlora_ray.types import LoraSpec, TrainSpec

NUM_ADAPTERS = 32
LORA_RANK = 16
FULL_ROW_BATCH = 32  # rows of the first adapter's batch: more tokens than one packed row holds
STEPS = 2
NUM_PROCESSES = 2
BYTES_PER_PARAMETER = 12  # fp32 weight and two fp32 moments


def run(*, base: str = "smollm2-135m", dtype: str = "bfloat16", threads: int = 1) -> dict[str, Any]:
    """{command, commit, machine, rows} with one row. Raises InputError."""
    from mlora_ray.bases.resolve import resolve_base

    spec = resolve_base(base, dtype)
    with tempfile.TemporaryDirectory(prefix="mlora-bench-") as held:
        folder = Path(held)
        sources = folder / "sources"
        sources.mkdir()
        jobs = workloads.write_workload(folder, "batch1", spec, workloads.demo_sources(sources)[:1], STEPS)
        jobs = [_job(jobs[0], i) for i in range(NUM_ADAPTERS)]
        workloads.write_jobs(folder, jobs)
        bench = Bench(folder, jobs, threads, lambda line: print(line, file=sys.stderr, flush=True))
        ours = bench.child("residents")
        processes = bench.together(NUM_PROCESSES)
    own = ours["num_parameters"] * BYTES_PER_PARAMETER
    row = {
        "adapters": NUM_ADAPTERS,
        "lora_rank": LORA_RANK,
        "dtype": dtype,
        "adapter_own_bytes": own,
        "adapter_growth_bytes": ours["resident_growth_bytes"] / (NUM_ADAPTERS - 1),
        "adapter_peak_growth_bytes": ours["peak_growth_bytes"] / (NUM_ADAPTERS - 1),
        "ratio": ours["resident_growth_bytes"] / (NUM_ADAPTERS - 1) / own,
        "ratio_peak": ours["peak_growth_bytes"] / (NUM_ADAPTERS - 1) / own,
        "one_adapter_peak_bytes": ours["first_peak_bytes"],
        "peak_bytes": ours["peak_bytes"],
        "peft_processes_measured": NUM_PROCESSES,
        "peft_private_bytes": measure.median([p["private_bytes"] for p in processes]),
        "peft_bytes_32": NUM_ADAPTERS * measure.median([p["private_bytes"] for p in processes]),
    }
    return measure.result(threads, workloads.SEED, [row])


def _job(job: workloads.BenchJob, i: int) -> workloads.BenchJob:
    """Adapter i, rank 16 on every linear layer. The first fills whole packed rows, the others bring one row a step."""
    train = TrainSpec(batch_size=FULL_ROW_BATCH if i == 0 else 1, max_steps=STEPS, seed=i)
    spec = dataclasses.replace(job.spec, name=f"adapter-{i}", lora=LoraSpec(r=LORA_RANK), train=train)
    return workloads.BenchJob(spec, job.rows)


def print_table(result: dict[str, Any], console: Any = None) -> None:
    """The result as a person reads it."""
    from rich.console import Console
    from rich.table import Table

    row = result["rows"][0]
    table = Table(title=f"{row['adapters']} resident adapters, r={row['lora_rank']}, all linear layers, AdamW")
    for head in ("", "bytes", "over an adapter's own"):
        table.add_column(head, justify="left" if not head else "right")
    table.add_row("an adapter's own: fp32 weights and two moments", show_bytes(row["adapter_own_bytes"]), "1.00x")
    table.add_row("growth per adapter, resident", show_bytes(row["adapter_growth_bytes"]), f"{row['ratio']:.2f}x")
    peak = f"{row['ratio_peak']:.2f}x"
    table.add_row("growth per adapter, peak", show_bytes(row["adapter_peak_growth_bytes"]), peak)
    table.add_row(f"whole process with {row['adapters']}, peak", show_bytes(row["peak_bytes"]), "")
    measured = f"32 PEFT processes ({row['peft_processes_measured']} measured, private memory, times 32)"
    table.add_row(measured, show_bytes(row["peft_bytes_32"]), "")
    (console or Console()).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = run(dtype=given.dtype, threads=given.threads)
    print(json.dumps(found)) if given.json else print_table(found)
