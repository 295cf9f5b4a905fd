"""One process of `profiling.memory`: trains one group for two steps and prints the bytes of a `Peak` as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from mlora_ray.profiling.measure import peak_bytes
from mlora_ray.profiling.workload import Shape

STEPS = 2


def main(asked: str) -> None:
    from mlora_ray.engine.base_loading import load_base
    from mlora_ray.engine.engine import Engine
    from mlora_ray.engine.gradient_buffers import open_step_bytes
    from mlora_ray.profiling.timing import group_step
    from mlora_ray.profiling.workload import group_jobs
    from mlora_ray.types import BaseSpec

    name, path, dtype, threads, tokens, num_adapters, lora_rank, row_tokens = json.loads(asked)
    shape = Shape(tokens, num_adapters, lora_rank)
    base = load_base(BaseSpec(name=name, path=path, dtype=dtype), "cpu", threads)
    load_peak_bytes = peak_bytes()
    _forget_peak()
    with tempfile.TemporaryDirectory() as pages:
        engine = Engine(base, token_budget=tokens, page_dir=pages)
        with contextlib.closing(engine):
            jobs = group_jobs(base.spec, base.head_VD.shape[0], shape, row_tokens, STEPS)
            for spec, rows in jobs:
                engine.admit(spec, rows)
            for _ in range(STEPS):
                group_step(engine, [spec.name for spec, _ in jobs])
            open_bytes = open_step_bytes(engine.layout(jobs[0][0]), base.dtype)
            at_once = min(num_adapters, max(1, engine.budget.scratch_bytes // open_bytes))
            own_bytes = sum(engine.state(spec.name).num_bytes for spec, _ in jobs) + at_once * open_bytes
            print(json.dumps([base.num_bytes, own_bytes, load_peak_bytes, peak_bytes()]))


def _forget_peak() -> None:
    """Linux keeps the largest resident size until it is told to begin anew; loading is not what is measured."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1])
