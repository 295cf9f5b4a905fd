"""One job through PEFT's and transformers' own loop and through the engine reaches the same eval loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mlora_ray.bases.resolve import resolve_base
from mlora_ray.data.batch_sampler import rows_of_step
from mlora_ray.data.tokenized_rows import Rows, make_rows
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import prepare_base
from mlora_ray.types import LoraSpec, TrainSpec
from tests.engine.jobs import make_engine, make_job, train_all
from tests.engine.peft_solo import peft_model, solo_loss

STEPS = 20
WORDS = ("red", "green", "blue", "seven", "river", "stone", "winter", "lamp", "paper", "quiet")


def task(tokenizer: Any, seed: int, number: int) -> Rows:
    """Say three words backwards; the loss counts on the answer."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(number):
        words = rng.choice(WORDS, 3).tolist()
        prompt = tokenizer.encode("Backwards: " + " ".join(words) + " ->")
        answer = tokenizer.encode(" " + " ".join(reversed(words)) + "\n")
        pairs.append((prompt + answer, [False] * len(prompt) + [True] * len(answer)))
    return make_rows(pairs)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other at every small operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "learning_rate"),
    [
        ("tiny-llama", 2e-2),
        pytest.param("smollm2-135m", 5e-4, marks=[pytest.mark.base135m, pytest.mark.full]),
    ],
)
@pytest.mark.usefixtures("_one_thread")
def test_same_eval_loss_as_peft_s_own_loop(name: str, learning_rate: float) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

    spec = resolve_base(name, "float32")
    tokenizer = AutoTokenizer.from_pretrained(spec.path)
    rows, eval_rows = task(tokenizer, 0, 40), task(tokenizer, 1, 12)
    lora = LoraSpec(r=8, lora_alpha=16)
    train = TrainSpec(learning_rate=learning_rate, batch_size=4, num_epochs=0, max_steps=STEPS, warmup_ratio=0.1)
    stock = AutoModelForCausalLM.from_pretrained(spec.path, dtype=torch.float32)

    base = prepare_base(AutoModelForCausalLM.from_pretrained(spec.path, dtype=torch.float32), spec, tile=128)
    engine = make_engine(base, token_budget=256)
    job = dataclasses.replace(make_job("job", lora, train), base=spec)
    fresh = AdapterState.fresh(engine.layout(job), lora, train)
    model = peft_model(stock, lora, fresh, fp32=True).train()
    engine.admit(job, rows, state=fresh)
    train_all(engine)
    before, ours = engine.evaluate([(None, None, eval_rows), (engine.state("job"), job, eval_rows)])

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=train.learning_rate, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimizer, 2, STEPS)
    for step in range(STEPS):
        plan = rows_of_step(train, rows.lengths, step, job.nano_batch_tokens)
        loss = solo_loss(model, rows, tuple(row for nano in plan.nano_batches for row in nano))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    with torch.no_grad():
        theirs = float(solo_loss(model.eval(), eval_rows, tuple(range(eval_rows.num_rows))))
    print(f"eval loss before {before:.4f}, ours {ours:.5f}, PEFT's {theirs:.5f}, off {ours / theirs - 1:+.4%}")
    assert theirs < 0.7 * before
    assert ours == pytest.approx(theirs, rel=5e-3)
