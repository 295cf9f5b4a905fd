"""One contestant in a process of its own: `python -m mlora_ray.benchmarks.peft_contestants KIND FOLDER THREADS [JOB]`.

Prints one JSON line with what it spent. Loading the base and one optimizer step of every job, on adapters that are then
thrown away, come before the clock on both sides; making the adapters is outside the clock too.

`peft`     PEFT, one job after another on one base: HF padding collator, labels on targets only, fused AdamW, adapters
           in fp32 beside a bf16 base, which is PEFT's default and what ours keeps as well
`peft_low` the same with the adapters, and so AdamW's moments, in the base's dtype: cheaper, and less exact
`process`  PEFT, the job number JOB alone; waits for a line on standard input between warm-up and clock
`ours`     the engine, all jobs at once
`alone`    the engine, one job after another
`residents` the engine, the first job, then all others beside it: how much memory they add
`gemm`     the base's linear layers alone, forward and input gradient, no model around them
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlora_ray.benchmarks.workloads import BenchJob, read_workload, work_of
from mlora_ray.profiling import measure

GEMM_ROWS = 1024
GEMM_PASSES = 4
MEMORY_SHARE = 0.6
# The faster of transformers' own for PEFT. Tokens per CPU-second, same steps in turn, one thread of a Xeon with AMX:
# bf16 149 sdpa, 177 eager (rows of 40-190 tokens), 176 and 183 (220-550 tokens); fp32 122 and 121.
PEFT_ATTENTION = {"bfloat16": "eager", "float32": "sdpa"}


def main(kind: str, folder: Path, threads: int, job: int = 0) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    jobs = read_workload(folder)
    runs = {"peft": run_peft, "process": run_process, "ours": run_ours, "alone": run_alone, "gemm": run_gemm}
    runs |= {"residents": run_residents, "peft_low": lambda jobs: run_peft(jobs, keeps_fp32=False)}
    found = runs[kind]([jobs[job]] if kind == "process" else jobs)
    print(json.dumps({"kind": kind, "peak_bytes": measure.peak_bytes(), **found}), flush=True)


def _spent(jobs: list[BenchJob], spent: measure.Spent) -> dict[str, Any]:
    work = work_of(jobs)
    return {**spent._asdict(), "num_tokens": work.num_tokens, "num_steps": work.num_steps}


# PEFT, as its users run it.


def run_peft(jobs: list[BenchJob], keeps_fp32: bool = True) -> dict[str, Any]:
    model = _load_for_peft(jobs[0])
    for job in jobs:
        for _ in _train_with_peft(model, job, 1, keeps_fp32):
            pass
    cpu_s = wall_s = 0.0
    for job in jobs:
        spent = list(_train_with_peft(model, job, job.spec.total_steps, keeps_fp32))
        cpu_s += sum(s.cpu_s for s in spent)
        wall_s += sum(s.wall_s for s in spent)
    return _spent(jobs, measure.Spent(cpu_s, wall_s))


def run_process(jobs: list[BenchJob]) -> dict[str, Any]:
    model = _load_for_peft(jobs[0])
    for _ in _train_with_peft(model, jobs[0], max_steps=1):
        pass
    print("ready", flush=True)
    sys.stdin.readline()
    watch = measure.Stopwatch()
    private = 0
    for _ in _train_with_peft(model, jobs[0], max_steps=jobs[0].spec.total_steps):
        private = max(private, measure.private_bytes())
    return {**_spent(jobs, watch.read()), "private_bytes": private}


def _load_for_peft(job: BenchJob) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    base = job.spec.base
    dtype = getattr(torch, base.dtype)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype, attn_implementation=PEFT_ATTENTION[base.dtype])
    model.config.use_cache = False
    return model.train()


def _train_with_peft(model: Any, job: BenchJob, max_steps: int, keeps_fp32: bool = True) -> Iterator[measure.Spent]:
    """Train a new adapter, one yield a step; the model is bare again at the end."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq

    lora, train = job.spec.lora, job.spec.train
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(model, config, autocast_adapter_dtype=keeps_fp32)
    weights = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    collate = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(job.spec.base.path), padding=True)
    for step in range(max_steps):
        rows = job.step_rows(step)
        watch = measure.Stopwatch()
        batch = collate([_features(job, row) for row in rows])
        tuned(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield watch.read()
    tuned.unload()


def _features(job: BenchJob, row: int) -> dict[str, list[int]]:
    """One row as the HF collator takes it; -100 where the loss does not look."""
    start, end = job.rows.offsets[row], job.rows.offsets[row + 1]
    tokens, targets = job.rows.tokens[start:end].tolist(), job.rows.is_target[start:end].tolist()
    labels = [token if is_target else -100 for token, is_target in zip(tokens, targets, strict=True)]
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels}


# Ours, through the engine.


def run_ours(jobs: list[BenchJob]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as pages, contextlib.closing(_load_engine(jobs, pages)) as engine:
        _finish(engine, _warm_up(jobs))
        ended = _finish(engine, jobs)
    spent = ended.pop("")
    return {**_spent(jobs, spent), "job_wall_s": {name: s.wall_s for name, s in ended.items()}}


def run_alone(jobs: list[BenchJob]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as pages, contextlib.closing(_load_engine(jobs, pages)) as engine:
        _finish(engine, _warm_up(jobs))
        spent = {job.spec.name: _finish(engine, [job])[""] for job in jobs}
    total = measure.Spent(sum(s.cpu_s for s in spent.values()), sum(s.wall_s for s in spent.values()))
    return {**_spent(jobs, total), "job_wall_s": {name: s.wall_s for name, s in spent.items()}}


def run_residents(jobs: list[BenchJob]) -> dict[str, Any]:
    """Growth of this process from one resident adapter, after full packed rows, to all of them."""
    with tempfile.TemporaryDirectory() as pages, contextlib.closing(_load_engine(jobs, pages)) as engine:
        _finish(engine, jobs[:1], is_evicted=False)
        resident, peak = measure.resident_bytes(), measure.peak_bytes()
        _finish(engine, jobs[1:], is_evicted=False)
        grown = measure.resident_bytes() - resident
        held = [engine.progress(job.spec.name) for job in jobs]
        assert all(p.is_resident for p in held), "an adapter was paged out: too little memory for this measurement"
        return {
            "num_parameters": engine.layout(jobs[0].spec).size,
            "resident_growth_bytes": grown,
            "peak_growth_bytes": measure.peak_bytes() - peak,
            "first_peak_bytes": peak,
        }


def _load_engine(jobs: list[BenchJob], pages: str) -> Any:
    import psutil
    import torch

    from mlora_ray.engine.base_loading import load_base
    from mlora_ray.engine.engine import Engine

    base = load_base(jobs[0].spec.base, "cpu", torch.get_num_threads())
    limit = int(MEMORY_SHARE * psutil.virtual_memory().total)
    return Engine(base, memory_limit_bytes=limit, page_dir=pages)


def _warm_up(jobs: list[BenchJob]) -> list[BenchJob]:
    """The same jobs for one step, under names of their own."""
    import dataclasses

    specs = [dataclasses.replace(job.spec, name=f"warm-{job.spec.name}", total_steps=1) for job in jobs]
    return [BenchJob(spec, job.rows) for spec, job in zip(specs, jobs, strict=True)]


def _finish(engine: Any, jobs: list[BenchJob], is_evicted: bool = True) -> dict[str, measure.Spent]:
    """Train `jobs` together to their end: when each took its last step, and under "" when all had."""
    for job in jobs:
        engine.admit(job.spec, job.rows, None)
    steps = {job.spec.name: job.spec.total_steps for job in jobs}
    ended: dict[str, measure.Spent] = {}
    watch = measure.Stopwatch()
    while engine.has_work:
        for report in engine.step():
            if not hasattr(report, "num_tokens"):
                raise RuntimeError(f"job {report.job} failed at step {report.step}: {report.error}")
            if report.step == steps[report.job]:
                ended[report.job] = watch.read()
    ended[""] = watch.read()
    assert ended.keys() >= steps.keys(), f"jobs without a last step: {sorted(steps.keys() - ended.keys())}"
    for job in jobs if is_evicted else []:
        engine.evict(job.spec.name)
    return ended


# The limit.


def run_gemm(jobs: list[BenchJob]) -> dict[str, Any]:
    """GFLOP per CPU-second of y = x W^T and dx = g W over all linear layers of the base, each with its own weights."""
    import torch

    base = jobs[0].spec.base
    dtype = getattr(torch, base.dtype)
    shapes = [(out, into) for _, out, into in linear_shapes(base.path)]
    weights = [torch.randn(out, into, dtype=dtype) / into**0.5 for out, into in shapes]
    inputs = {n: torch.randn(GEMM_ROWS, n, dtype=dtype) for n in {n for shape in shapes for n in shape}}
    flop = 4 * GEMM_ROWS * sum(w.numel() for w in weights)
    best = measure.Spent(float("inf"), float("inf"))
    with torch.no_grad():
        for _ in range(GEMM_PASSES):
            watch = measure.Stopwatch()
            for w_OI in weights:
                torch.nn.functional.linear(inputs[w_OI.shape[1]], w_OI)
                torch.mm(inputs[w_OI.shape[0]], w_OI)
            best = min(best, watch.read())
    capability = torch.backends.cpu.get_cpu_capability()
    rates = {"gflop_per_cpu_s": flop / best.cpu_s / 1e9, "gflop_per_s": flop / best.wall_s / 1e9}
    return {**rates, "gemm_rows": GEMM_ROWS, "capability": capability}


def linear_shapes(path: str) -> list[tuple[str, int, int]]:
    """(name, out, in) of every linear layer of the base but its head."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    head = model.get_output_embeddings()
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return [(name, m.out_features, m.in_features) for name, m in linears]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *[int(a) for a in sys.argv[4:]])
