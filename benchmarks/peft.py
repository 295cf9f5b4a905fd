"""`mlora-ray bench peft`: the same jobs through PEFT and through the engine, in one run on one machine.

Each contestant is a process of its own (see contestants.py) and takes its turn in every repeat; figures are medians.
Tokens are real tokens: padding is never counted. The share of the GEMM rate counts, for the base alone,

    2 x weights x tokens          forward, every linear layer of every block
    2 x weights x tokens          gradient of its input; not for what the embeddings feed, which needs none
    4 x head weights x targets    forward and input gradient of the logits that the loss looks at

and divides it by the CPU seconds and by the rate that the linear layers alone reach in the same run. What LoRA itself
computes, attention, and logits nobody asked for are left out: they are cost, not work, on both sides.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mlora_ray.benchmarks import workloads
from mlora_ray.display.numbers import show_bytes
from mlora_ray.errors import InputError, Mistake
from mlora_ray.profiling import measure

CHILD_TIMEOUT_S = 1800
PROCESS_BYTES_GUESS = 1_600_000_000  # of one PEFT process on the 135M base; decides how many run at once
MEMORY_SHARE = 0.7
# Linear layers fed by the embeddings through a norm alone: no gradient has to reach their input.
FED_BY_EMBEDDINGS = re.compile(r"\.(0)\..*(q_proj|k_proj|v_proj|qkv_proj|query_key_value)$")
CONTESTANTS = ("gemm", "peft", "ours")
Log = Callable[[str], None]


class Flop(NamedTuple):
    """Work of the base per token and per target, in FLOP."""

    per_token: int
    per_target: int


def run(
    *,
    data: str | None = None,
    workload: str = "",
    repeats: int = 3,
    dtype: str = "bfloat16",
    threads: int = 1,
    base: str = "smollm2-135m",
    steps: int = 0,
    with_processes: bool = True,
    with_alone: bool = True,
    log: Log = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """Benchmark one workload, or all that need no --data: {command, commit, machine, rows}. Raises InputError."""
    if workload and workload not in workloads.WORKLOADS:
        allowed = " or ".join(workloads.WORKLOADS)
        raise InputError([Mistake(file="bench peft", field="--workload", value=workload, allowed=allowed)])
    names = ["data"] if data else [workload] if workload else ["mixed", "batch1"]
    from mlora_ray.bases.resolve import resolve_base

    spec = resolve_base(base, dtype)
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="mlora-bench-") as held:
            folder = Path(held)
            sources = folder / "sources"
            sources.mkdir()
            files = workloads.convert_sources(Path(data), sources) if data else workloads.demo_sources(sources)
            jobs = workloads.write_workload(folder, name, spec, files, steps or workloads.STEPS[name])
            log(_describe(name, jobs))
            bench = Bench(folder, jobs, threads, log)
            rows.append({"workload": name, "dtype": dtype, **bench.measure(repeats, with_processes, with_alone)})
    return measure.result(threads, workloads.SEED, rows, base=base, repeats=repeats)


def _describe(name: str, jobs: list[workloads.BenchJob]) -> str:
    work = workloads.work_of(jobs)
    shapes = ", ".join(f"r{j.spec.lora.r}xb{j.spec.train.batch_size}" for j in jobs)
    return f"{name}: {len(jobs)} jobs ({shapes}), {work.num_steps} steps, {work.num_tokens:,} tokens"


class Bench:
    """One workload on disk and the contestants that run it."""

    def __init__(self, folder: Path, jobs: list[workloads.BenchJob], threads: int, log: Log) -> None:
        self.folder, self.jobs, self.threads, self.log = folder, jobs, threads, log

    def measure(self, repeats: int, with_processes: bool, with_alone: bool) -> dict[str, Any]:
        """One row of the result."""
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in CONTESTANTS}
        for repeat in range(repeats):
            # The order turns with each repeat: none is always first on a machine that has just been idle.
            for kind in (*CONTESTANTS[repeat % 3 :], *CONTESTANTS[: repeat % 3]):
                found[kind].append(self.child(kind))
                self.log(f"  repeat {repeat + 1}/{repeats} {_one_line(found[kind][-1])}")
        row = _compare(found, _flop(self.jobs[0].spec.base.path), workloads.work_of(self.jobs))
        if with_alone:
            row.update(_low(self.child("peft_low"), row))
            row.update(_fairness(found["ours"], self.child("alone")))
        if with_processes:
            row.update(self._processes())
        return row

    def _start(self, kind: str, *extra: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "mlora_ray.benchmarks.peft_contestants",
            kind,
            str(self.folder),
            str(self.threads),
        ]
        return subprocess.Popen(
            [*command, *extra],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / f"{kind}{''.join(extra)}.log").open("w"),
            text=True,
            env=measure.child_environment(self.threads),
            cwd=self.folder,
        )

    def _end(self, kind: str, child: subprocess.Popen[str], *extra: str) -> dict[str, Any]:
        """The child's result. Raises RuntimeError with the end of its log when it failed."""
        try:
            out, _ = child.communicate(timeout=CHILD_TIMEOUT_S)
        finally:
            child.kill()
        if child.returncode:
            log = (self.folder / f"{kind}{''.join(extra)}.log").read_text(encoding="utf-8")
            raise RuntimeError(f"contestant {kind} ended with {child.returncode}:\n{log[-3000:]}")
        held: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return held

    def child(self, kind: str) -> dict[str, Any]:
        """What one contestant spent."""
        return self._end(kind, self._start(kind))

    def _processes(self) -> dict[str, Any]:
        """N PEFT processes at once, as many jobs as memory holds."""
        fit = int(MEMORY_SHARE * psutil.virtual_memory().available / PROCESS_BYTES_GUESS)
        ended = self.together(max(1, min(len(self.jobs), fit)))
        tokens = sum(e["num_tokens"] for e in ended)
        held = {
            "processes": len(ended),
            "processes_tokens_per_cpu_s": tokens / sum(e["cpu_s"] for e in ended),
            "processes_tokens_per_s": tokens / max(e["wall_s"] for e in ended),
            "processes_peak_bytes": sum(e["peak_bytes"] for e in ended),
        }
        self.log(f"  {len(ended)} PEFT processes: {held['processes_tokens_per_cpu_s']:.0f} tokens/CPU-s")
        return held

    def together(self, count: int) -> list[dict[str, Any]]:
        """The first `count` jobs, each in a PEFT process of its own; the clock starts when all are warm."""
        children = [self._start("process", str(i)) for i in range(count)]
        try:
            for child in children:
                assert child.stdout
                while (line := child.stdout.readline()) and line.strip() != "ready":
                    pass
            for child in children:
                assert child.stdin
                child.stdin.write("go\n")
                child.stdin.flush()
            return [self._end("process", child, str(i)) for i, child in enumerate(children)]
        finally:
            for child in children:
                child.kill()


def _one_line(found: dict[str, Any]) -> str:
    if found["kind"] == "gemm":
        return f"gemm: {found['gflop_per_cpu_s']:.0f} GFLOP per CPU-second ({found['capability']})"
    rate = found["num_tokens"] / found["cpu_s"]
    return f"{found['kind']}: {rate:.0f} tokens/CPU-s, peak {show_bytes(found['peak_bytes'])}"


def _flop(path: str) -> Flop:
    """The base's work, counted as the module says."""
    from transformers import AutoConfig

    from mlora_ray.benchmarks.peft_contestants import linear_shapes

    shapes = linear_shapes(path)
    forward = sum(2 * out * into for _, out, into in shapes)
    backward = sum(2 * out * into for name, out, into in shapes if not FED_BY_EMBEDDINGS.search(name))
    config = AutoConfig.from_pretrained(path)
    return Flop(forward + backward, 4 * config.vocab_size * config.hidden_size)


def _compare(found: dict[str, list[dict[str, Any]]], flop: Flop, work: workloads.Work) -> dict[str, Any]:
    """Medians over the repeats; the GEMM rate is the best of them, which makes the shares the smallest."""
    rate = max(one["gflop_per_cpu_s"] for one in found["gemm"]) * 1e9
    needed_s = (flop.per_token * work.num_tokens + flop.per_target * work.num_targets) / rate
    cpu = {kind: [one["cpu_s"] for one in found[kind]] for kind in ("ours", "peft")}
    wall = {kind: measure.median([one["wall_s"] for one in found[kind]]) for kind in ("ours", "peft")}
    peak = {kind: max(one["peak_bytes"] for one in found[kind]) for kind in ("ours", "peft")}
    ours_cpu, peft_cpu = measure.median(cpu["ours"]), measure.median(cpu["peft"])
    return {
        "ours_tokens_per_cpu_s": work.num_tokens / ours_cpu,
        "peft_tokens_per_cpu_s": work.num_tokens / peft_cpu,
        "ratio_cpu": peft_cpu / ours_cpu,
        "ratio_wall": wall["peft"] / wall["ours"],
        "gemm_share": needed_s / ours_cpu,
        "peft_gemm_share": needed_s / peft_cpu,
        "peak_bytes": peak["ours"],
        "peft_peak_bytes": peak["peft"],
        "ours_tokens_per_s": work.num_tokens / wall["ours"],
        "peft_tokens_per_s": work.num_tokens / wall["peft"],
        "ours_spread": measure.spread(cpu["ours"]),
        "peft_spread": measure.spread(cpu["peft"]),
        "gemm_gflop_per_cpu_s": rate / 1e9,
        "gemm_gflop_per_cpu_s_all": [one["gflop_per_cpu_s"] for one in found["gemm"]],
        "capability": found["gemm"][0]["capability"],
        **work._asdict(),
    }


def _low(low: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """PEFT with adapters and moments in the base's dtype, once: what it saves by being less exact."""
    rate = low["num_tokens"] / low["cpu_s"]
    return {"peft_low_tokens_per_cpu_s": rate, "ratio_cpu_to_low": row["ours_tokens_per_cpu_s"] / rate}


def _fairness(ours: list[dict[str, Any]], alone: dict[str, Any]) -> dict[str, Any]:
    """A job that alone takes s of the S seconds all take one by one has s/S of the device: in the group it may take S.

    `slowest_share` is the largest wall time of a job in the group over S; above 1, one got less than its share.
    """
    total_s = sum(alone["job_wall_s"].values())
    ends = {name: measure.median([one["job_wall_s"][name] for one in ours]) for name in alone["job_wall_s"]}
    return {
        "alone_tokens_per_cpu_s": alone["num_tokens"] / alone["cpu_s"],
        "slowest_share": max(ends.values()) / total_s,
    }


def print_table(result: dict[str, Any], console: Any = None) -> None:
    """The result as a table a person reads."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    machine = result["machine"]
    table = Table(title=f"{machine['cpu']}, {machine['threads']} thread(s), commit {result['commit']}")
    heads = ["workload", "", "tokens/CPU-s", "tokens/s", "GEMM share", "peak memory"]
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < 2 else "right")
    for row in result["rows"]:
        for cells in _table_rows(row):
            table.add_row(*cells)
        table.add_section()
    console.print(table)


def _table_rows(row: dict[str, Any]) -> Iterable[list[str]]:
    def cells(name: str, key: str, share: str, peak: str) -> list[str]:
        rates = [f"{row[f'{key}_tokens_per_cpu_s']:,.0f}", f"{row[f'{key}_tokens_per_s']:,.0f}"]
        return ["", name, *rates, share, peak]

    title = f"{row['workload']} {row['dtype']}"
    ours = cells("mlora_ray, all at once", "ours", f"{row['gemm_share']:.0%}", show_bytes(row["peak_bytes"]))
    yield [title, *ours[1:]]
    yield cells("PEFT, one by one", "peft", f"{row['peft_gemm_share']:.0%}", show_bytes(row["peft_peak_bytes"]))
    if "processes" in row:
        name = f"PEFT, {row['processes']} processes"
        yield cells(name, "processes", "", show_bytes(row["processes_peak_bytes"]))
    yield [
        "",
        "[b]mlora_ray / PEFT one by one[/b]",
        f"[b]{row['ratio_cpu']:.2f}x[/b]",
        f"{row['ratio_wall']:.2f}x",
        "",
        "",
    ]
    rate = f"{row['gemm_gflop_per_cpu_s']:,.0f} GFLOP/CPU-s"
    yield ["", "linear layers alone", rate, "", "100%", ""]
    if "peft_low_tokens_per_cpu_s" in row:
        name = "PEFT, one by one, adapters in the base's dtype"
        yield ["", name, f"{row['peft_low_tokens_per_cpu_s']:,.0f} ({row['ratio_cpu_to_low']:.2f}x)", "", "", ""]
    if "slowest_share" in row:
        yield ["", "slowest job / its share of the device", f"{row['slowest_share']:.2f}", "", "", ""]
