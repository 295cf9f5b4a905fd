"""Train the same jobs in many kinds of company and print the hash of each, as JSON, for test_exactness.py.

    python -m tests.engine.scenarios tiny-llama bfloat16 2

`--short` after that: one group on the 135M base and nothing else. A process of its own for each dtype and thread count,
so that every thread pool is made with that count.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterable

import numpy as np

from mlora_ray.data.tokenized_rows import Rows
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import Base
from mlora_ray.engine.base_loading import load_base
from mlora_ray.engine.engine import Engine, StepFailure
from mlora_ray.types import JobSpec
from tests.engine.jobs import make_engine, mixed_job, random_rows, renamed, train_all

Job = tuple[JobSpec, Rows]
Hashes = dict[str, str]
NUM_JOBS = 32


def hashes(engine: Engine, names: Iterable[str]) -> Hashes:
    """SHA-256 of weights, moments and step."""
    return {name: engine.state(name).sha256() for name in names}


def together(base: Base, jobs: list[Job], **settings: int) -> Hashes:
    engine = make_engine(base, **settings)
    for spec, rows in jobs:
        engine.admit(spec, rows)
    failures = [r for r in train_all(engine) if isinstance(r, StepFailure)]
    assert not failures, failures
    out = hashes(engine, [spec.name for spec, _ in jobs])
    engine.close()
    return out


def alone(base: Base, jobs: list[Job]) -> Hashes:
    return {name: sha for job in jobs for name, sha in together(base, [job]).items()}


def admitted_late(base: Base, jobs: list[Job]) -> Hashes:
    """The second half comes when the first has trained for a while."""
    engine = make_engine(base)
    half = len(jobs) // 2
    for spec, rows in jobs[:half]:
        engine.admit(spec, rows)
    for spec, rows in jobs[half:]:
        engine.step()
        engine.admit(spec, rows)
    train_all(engine)
    return hashes(engine, [spec.name for spec, _ in jobs])


def interrupted(base: Base, jobs: list[Job]) -> Hashes:
    """Every few rows a job is evicted, most of the time in mid-step; its arrays go on in another engine."""
    engines = [make_engine(base, token_budget=128), make_engine(base, token_budget=256)]
    rng, home = random.Random(1), {}
    for spec, rows in jobs:
        engines[0].admit(spec, rows)
        home[spec.name] = 0
    num_open = 0
    for _ in range(40):
        for engine in engines:
            engine.step()
        in_step = [j for j in jobs if engines[home[j[0].name]]._trainings[j[0].name].scratch is not None]
        num_open += bool(in_step)
        spec, rows = rng.choice(in_step or jobs)
        source = engines[home[spec.name]]
        state = source.evict(spec.name)
        home[spec.name] = 1 - home[spec.name]
        target = engines[home[spec.name]]
        if state is not None:
            state = AdapterState.from_arrays(target.layout(spec), state.to_arrays())
        target.admit(spec, rows, state=state)
    assert num_open > 2, "no job was interrupted in mid-step"
    for engine in engines:
        train_all(engine)
    return {name: engines[at].state(name).sha256() for name, at in home.items()}


def resized(base: Base, jobs: list[Job]) -> Hashes:
    """The size of a packed row changes with every row, past the token budget too."""
    engine = make_engine(base)
    for spec, rows in jobs:
        engine.admit(spec, rows)
    rng = random.Random(2)
    while engine.has_work:
        engine.row_tokens = rng.choice((1, 64, 200, 256, 512, 4096))
        engine.step()
    return hashes(engine, [spec.name for spec, _ in jobs])


def paged(base: Base, jobs: list[Job]) -> Hashes:
    """Room for a third of the adapters; each makes room for others after one step."""
    engine = make_engine(base)
    for spec, rows in jobs:
        engine.admit(spec, rows)
    sizes = [t.state_bytes for t in engine._trainings.values()]
    memory = max(max(sizes), sum(sizes) // 3)
    engine = make_engine(base, adapter_memory_bytes=memory, page_steps=1)
    for spec, rows in jobs:
        engine.admit(spec, rows)
    train_all(engine)
    out = hashes(engine, [spec.name for spec, _ in jobs])
    assert engine.num_page_outs > len(jobs) // 2, f"only {engine.num_page_outs} page-outs"
    engine.close()
    return out


def _poisoned(value: float) -> Callable[[Engine, JobSpec], Rows]:
    """A neighbour whose weights are all `value`."""

    def admit(engine: Engine, like: JobSpec) -> Rows:
        state = AdapterState.fresh(engine.layout(like), like.lora, like.train)
        state.flat.fill_(value)
        rows = random_rows(99, 24, 3, 40)
        engine.admit(like, rows, state=state)
        return rows

    return admit


def _exploding(engine: Engine, like: JobSpec) -> Rows:
    rows = random_rows(99, 24, 3, 40)
    engine.admit(renamed(like, like.name, learning_rate=1e30, optim="adamw"), rows)
    return rows


def _raising(engine: Engine, like: JobSpec) -> Rows:
    """Its tokens go outside the vocabulary once it is admitted, so that the packed row itself raises."""
    rows = random_rows(99, 24, 3, 40)
    engine.admit(like, rows)
    rows.tokens[len(rows.tokens) // 2 :] = np.iinfo(np.int32).max
    return rows


BAD_NEIGHBOURS: dict[str, Callable[[Engine, JobSpec], Rows]] = {
    "nan_weights": _poisoned(float("nan")),
    "inf_loss": _poisoned(3e38),
    "exploding_rate": _exploding,
    "exception": _raising,
}


def beside_bad(base: Base, jobs: list[Job], kind: str) -> tuple[Hashes, list[str]]:
    """The jobs beside one bad neighbour; also the errors, each as `job: message`."""
    engine = make_engine(base)
    for spec, rows in jobs[::2]:
        engine.admit(spec, rows)
    BAD_NEIGHBOURS[kind](engine, renamed(jobs[0][0], "bad", max_steps=5))
    for spec, rows in jobs[1::2]:
        engine.admit(spec, rows)
    failures = [r for r in train_all(engine) if isinstance(r, StepFailure)]
    return hashes(engine, [spec.name for spec, _ in jobs]), [f"{f.job}: {f.error}" for f in failures]


def tiny_scenarios(base: Base) -> dict[str, Hashes]:
    jobs = [mixed_job(i) for i in range(NUM_JOBS)]
    out = {"alone": alone(base, jobs)}
    for number in (1, 3, 7, 31):
        out[f"neighbours {number}"] = together(base, jobs[: number + 1])
    out["order reversed"] = together(base, jobs[::-1])
    out["order shuffled"] = together(base, random.Random(0).sample(jobs, len(jobs)))
    out["admitted late"] = admitted_late(base, jobs)
    out["interrupted"] = interrupted(base, jobs[:12])
    out["paged"] = paged(base, jobs)
    out["row sizes change"] = resized(base, jobs[:12])
    out["token budget 1024"] = together(base, jobs, token_budget=1024)
    out["token budget 64"] = together(base, jobs[:8], token_budget=64)
    return out


def real_scenarios(base: Base) -> dict[str, Hashes]:
    """As few tokens as possible: a row of the 135M base costs a whole tile."""
    jobs = [mixed_job(i, is_small=True) for i in range(NUM_JOBS)]
    measured = [jobs[2], jobs[3]]
    out = {"alone": alone(base, measured)}
    out |= {f"neighbours {n}": together(base, jobs[2 : 3 + n]) for n in (1, 3)}
    out["neighbours 31"] = together(base, jobs)
    out["neighbours 7 interrupted"] = interrupted_once(base, jobs[2:10])
    return out


def short_scenarios(base: Base) -> dict[str, Hashes]:
    """Two adapters of the 135M base alone and beside seven others, three steps of each."""
    jobs = [mixed_job(i, is_small=True, steps=3) for i in range(2, 10)]
    return {"alone": alone(base, jobs[:2]), "neighbours 7": together(base, jobs)}


def interrupted_once(base: Base, jobs: list[Job]) -> Hashes:
    """All jobs move to a fresh engine after four rows, in reverse order."""
    engine = make_engine(base, token_budget=256)
    for spec, rows in jobs:
        engine.admit(spec, rows)
    for _ in range(4):
        engine.step()
    after = make_engine(base, token_budget=256)
    for spec, rows in jobs[::-1]:
        after.admit(spec, rows, state=engine.evict(spec.name))
    train_all(after)
    return hashes(after, [spec.name for spec, _ in jobs])


def main(name: str, dtype: str, threads: int, is_short: bool) -> None:
    from mlora_ray.bases.resolve import resolve_base

    base = load_base(resolve_base(name, dtype), threads=threads)
    if is_short:
        json.dump({"scenarios": short_scenarios(base)}, sys.stdout)
        return
    is_tiny = name == "tiny-llama"
    scenarios = tiny_scenarios(base) if is_tiny else real_scenarios(base)
    jobs = [mixed_job(i, is_small=not is_tiny) for i in (2, 3, 4, 5, 6)]
    bad = {}
    for kind in BAD_NEIGHBOURS if is_tiny else ("nan_weights",):
        got, errors = beside_bad(base, jobs if is_tiny else jobs[:2], kind)
        bad[kind] = {"hashes": got, "errors": errors}
    json.dump({"threads": threads, "scenarios": scenarios, "bad": bad}, sys.stdout)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), "--short" in sys.argv[4:])
