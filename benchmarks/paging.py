"""`python -m mlora_ray.benchmarks.paging`: 500 jobs in one job file on the tiny base, most of them paged out.

The same job file is trained twice by `mlora-ray train`, once with room for a few adapters (--adapter-memory) and once
with room for all; every job's weights_sha256 must be the same in both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from mlora_ray.benchmarks import workloads
from mlora_ray.display.numbers import show_bytes, show_seconds
from mlora_ray.profiling import measure

NUM_JOBS = 500
ADAPTER_MEMORY_BYTES = 4_000_000
RANKS = (2, 4, 8, 16)
BATCHES = (1, 2, 4)
OPTIMIZERS = ("adamw", "adamw", "sgd", "lion")
STEPS = 3
BASE = "tiny-llama"
RUN_TIMEOUT_S = 1800


def run(
    *, num_jobs: int = NUM_JOBS, adapter_memory_bytes: int = ADAPTER_MEMORY_BYTES, threads: int = 1
) -> dict[str, Any]:
    """{command, commit, machine, rows} with one row. Raises RuntimeError with the output of a run that failed."""
    with tempfile.TemporaryDirectory(prefix="mlora-bench-") as held:
        folder = Path(held)
        job_file = _write_job_file(folder, num_jobs)
        paged = _train(job_file, folder / "paged", threads, ["--adapter-memory", str(adapter_memory_bytes)])
        unpaged = _train(job_file, folder / "unpaged", threads, [])
    hashes = [{job["name"]: job["weights_sha256"] for job in found["jobs"]} for found in (paged, unpaged)]
    different = sorted(name for name in hashes[1] if hashes[0].get(name) != hashes[1][name])
    row = {
        "jobs": num_jobs,
        "adapter_memory_bytes": adapter_memory_bytes,
        "succeeded": len(paged["succeeded"]),
        "identical": num_jobs - len(different),
        "different": different,
        "paged_s": paged["seconds"],
        "unpaged_s": unpaged["seconds"],
        "tokens": paged["tokens"],
        "paged_peak_bytes": paged["peak_bytes"],
        "unpaged_peak_bytes": unpaged["peak_bytes"],
    }
    return measure.result(threads, workloads.SEED, [row])


def _write_job_file(folder: Path, num_jobs: int) -> Path:
    """`num_jobs` jobs over the 8 demo tasks, no two alike: rank, batch, optimizer and seed differ."""
    data = folder / "data"
    data.mkdir()
    sources = workloads.demo_sources(data)
    jobs = [
        {
            "name": f"job-{i:03d}",
            "train": str(sources[i % len(sources)]),
            "r": RANKS[i % len(RANKS)],
            "batch_size": BATCHES[i % len(BATCHES)],
            "optim": OPTIMIZERS[i // 7 % len(OPTIMIZERS)],
            "lora_dropout": 0.1 * (i % 2),
            "seed": workloads.SEED + i,
        }
        for i in range(num_jobs)
    ]
    held = {"base": BASE, "defaults": {"max_steps": STEPS, "max_length": 512, "learning_rate": 1e-3}, "jobs": jobs}
    path = folder / "jobs.yaml"
    path.write_text(yaml.safe_dump(held, sort_keys=False), encoding="utf-8")
    return path


def _train(job_file: Path, out: Path, threads: int, extra: list[str]) -> dict[str, Any]:
    """summary.json of one run, with `seconds` it took from start to end."""
    command = [sys.executable, "-m", "mlora_ray", "train", str(job_file), "--out", str(out), "--threads", str(threads)]
    started_s = time.perf_counter()
    done = subprocess.run(
        [*command, *extra],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        env=measure.child_environment(threads),
        cwd=job_file.parent,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    held: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return {**held, "seconds": time.perf_counter() - started_s}


def print_table(result: dict[str, Any], console: Any = None) -> None:
    """The result as a person reads it."""
    from rich.console import Console
    from rich.table import Table

    row = result["rows"][0]
    table = Table(title=f"{row['jobs']} jobs on {BASE}: {row['identical']} of {row['jobs']} with equal SHA-256")
    for head in ("", "room for adapters", "seconds", "peak memory"):
        table.add_column(head, justify="left" if not head else "right")
    room = show_bytes(row["adapter_memory_bytes"])
    table.add_row("paged", room, show_seconds(row["paged_s"]), show_bytes(row["paged_peak_bytes"]))
    table.add_row("all resident", "all", show_seconds(row["unpaged_s"]), show_bytes(row["unpaged_peak_bytes"]))
    (console or Console()).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=NUM_JOBS)
    parser.add_argument("--adapter-memory", type=int, default=ADAPTER_MEMORY_BYTES, help="bytes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = run(num_jobs=given.jobs, adapter_memory_bytes=given.adapter_memory, threads=given.threads)
    print(json.dumps(found)) if given.json else print_table(found)
    sys.exit(1 if found["rows"][0]["different"] else 0)
