"""Small training jobs of every kind on made-up rows, for the engine's tests."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlora_ray.data.tokenized_rows import Rows, make_rows
from mlora_ray.engine.base import Base
from mlora_ray.engine.engine import Engine, StepFailure
from mlora_ray.types import BaseSpec, JobSpec, LoraSpec, RowsRef, StepReport, TrainSpec

NO_REF = RowsRef(
    uri="", sha256="", source="", num_rows=0, num_tokens=0, num_target_tokens=0, num_truncated=0, max_row_tokens=0
)
BASE_SPEC = BaseSpec(name="tiny", path="", dtype="float32")
OPTIMIZERS = ("adamw", "lion", "adamw", "sgd", "adamw")
RATES = {"adamw": 1e-3, "lion": 1e-4, "sgd": 1e-1}


def random_rows(seed: int, num_rows: int, shortest: int, longest: int, vocab: int = 500) -> Rows:
    """Rows of random tokens; the last two thirds of each are targets."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, num_rows).tolist()
    return make_rows([(rng.integers(0, vocab, n).tolist(), [at > n // 3 for at in range(n)]) for n in lengths])


def make_job(name: str, lora: LoraSpec, train: TrainSpec, nano_batch_tokens: int = 512) -> JobSpec:
    """A job of `train.max_steps` steps whose rows are handed to the engine directly."""
    return JobSpec(
        name=name,
        base=BASE_SPEC,
        lora=lora,
        train=train,
        train_rows=NO_REF,
        total_steps=train.max_steps,
        nano_batch_tokens=nano_batch_tokens,
    )


def mixed_job(i: int, *, is_small: bool = False, steps: int = 5) -> tuple[JobSpec, Rows]:
    """Job `i` of a mix: ranks 4 to 32, batches 1 to 8, lengths 3 to 150, dropout, three optimizers, accumulation.

    `is_small`: rows of 3 to 12 tokens and batches of 1 or 2, for the 135M base.
    """
    optim = OPTIMIZERS[i % 5]
    train = TrainSpec(
        optim=optim,
        learning_rate=RATES[optim],
        weight_decay=[0.0, 0.01][i % 2],
        lr_scheduler_type=["linear", "cosine", "constant"][i % 3],
        loraplus_lr_ratio=[1.0, 4.0][i % 7 == 3],
        batch_size=[1, 2][i % 2] if is_small else [1, 2, 4, 8][i % 4],
        gradient_accumulation_steps=[1, 3][i % 4 == 2],
        num_epochs=0,
        max_steps=steps,
        seed=i,
    )
    lora = LoraSpec(
        r=[4, 8, 16, 32][(i + i // 4) % 4],
        lora_alpha=[8.0, 32.0][i % 2],
        lora_dropout=[0.1, 0.05, 0.3, 0.0][i % 4],
        use_rslora=i % 6 == 5,
        target_modules=[("all-linear",), ("q_proj", "v_proj"), ("all-linear",)][i % 3],
        rank_pattern=(("v_proj", 3),) if i % 8 == 4 else (),
    )
    longest = 12 if is_small else [60, 150, 90, 20][i % 4]
    return make_job(f"job{i}", lora, train, nano_batch_tokens=128), random_rows(i, 24, 3, longest)


def train_all(engine: Engine, max_rows: int = 2000) -> list[StepReport | StepFailure]:
    """Step until nobody has work; every reported step and failure. Fails when it takes more than `max_rows` rows."""
    out: list[StepReport | StepFailure] = []
    for _ in range(max_rows):
        if not engine.has_work:
            return out
        out += engine.step()
    raise AssertionError(f"still at work after {max_rows} rows: {engine.jobs}")


def make_engine(base: Base, **settings: int | str) -> Engine:
    limit = {"memory_limit_bytes": 16 << 30, "token_budget": 512}
    return Engine(base, **(limit | settings))  # type: ignore[arg-type]


def renamed(job: JobSpec, name: str, **train: object) -> JobSpec:
    """The same job under another name, with other training settings."""
    settings = dataclasses.replace(job.train, **train)  # type: ignore[arg-type]
    return dataclasses.replace(job, name=name, train=settings, total_steps=settings.max_steps)
