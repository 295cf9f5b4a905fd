"""Scheduling, paging, the data cursor and the optimizer's schedule."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.data.batch_sampler import cut, rows_of_step, steps_per_epoch, total_steps
from mlora_ray.data.tokenized_rows import from_bytes, make_rows, rows_sha256, to_bytes
from mlora_ray.engine.adapter_layout import build_layout
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import Base
from mlora_ray.engine.engine import StepFailure
from mlora_ray.engine.engine_job import EngineJob
from mlora_ray.engine.optimizer import clip_, optimizer_step_
from mlora_ray.engine.packed_row import Request, keep_mask
from mlora_ray.engine.packed_row_stats import RowFacts
from mlora_ray.engine.paging import Pager
from mlora_ray.errors import JobError
from mlora_ray.types import BUFFER_ROWS, LoraSpec, StepReport, TrainSpec
from tests.engine.jobs import make_engine, make_job, mixed_job, random_rows, renamed, train_all
from tests.engine.models import as_base, stock_model

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def base() -> Base:
    return as_base(stock_model("Llama"))


# -- the data cursor -------------------------------------------------------------------------------------------------


@given(lengths=LENGTHS, limit=st.integers(1, 100))
def test_a_cut_keeps_every_row_in_order_within_the_limit(lengths: list[int], limit: int) -> None:
    nano_batches = cut(list(range(len(lengths))), np.asarray(lengths), limit)
    assert [row for nano in nano_batches for row in nano] == list(range(len(lengths)))
    for nano in nano_batches:
        assert len(nano) == 1 or sum(lengths[i] for i in nano) <= limit
    for nano, following in itertools.pairwise(nano_batches):
        assert sum(lengths[i] for i in (*nano, following[0])) > limit, "a nano-batch could hold more"


@given(lengths=LENGTHS, batch=st.integers(1, 9), accumulation=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_data_pass_takes_every_row_once(lengths: list[int], batch: int, accumulation: int, seed: int) -> None:
    train = TrainSpec(batch_size=batch, gradient_accumulation_steps=accumulation, seed=seed)
    steps = steps_per_epoch(train, len(lengths))
    passes = []
    for data_pass in range(2):
        plans = [rows_of_step(train, np.asarray(lengths), data_pass * steps + s, 64) for s in range(steps)]
        rows = [row for plan in plans for nano in plan.nano_batches for row in nano]
        assert sorted(rows) == list(range(len(lengths)))
        assert all(plan.nano_batches for plan in plans)
        assert plans[-1].data_epoch == data_pass + 1
        passes.append(rows)
    if len(lengths) > 8:
        assert passes[0] != passes[1], "each data pass is shuffled anew"


@given(rows=st.integers(1, 200), batch=st.integers(1, 9), accumulation=st.integers(1, 4), epochs=st.floats(0.1, 4))
def test_total_steps(rows: int, batch: int, accumulation: int, epochs: float) -> None:
    """As transformers' Trainer counts them."""
    train = TrainSpec(batch_size=batch, gradient_accumulation_steps=accumulation, num_epochs=epochs)
    batches = math.ceil(rows / batch)
    per_epoch = max(1, batches // accumulation + int(batches % accumulation > 0))
    assert total_steps(train, rows) == math.ceil(epochs * per_epoch)
    assert total_steps(dataclasses.replace(train, max_steps=7), rows) == 7


def test_rows_round_trip() -> None:
    rows = make_rows([([1, 2, 3], [False, True, True]), ([4], [True]), ([5, 6], [True, False])])
    again = from_bytes(to_bytes(rows))
    assert rows_sha256(again) == rows_sha256(rows)
    assert again.num_targets().tolist() == [2, 0, 0]
    assert again.lengths.tolist() == [3, 1, 2]


# -- optimizer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_clipping_is_that_of_torch(scale: float) -> None:
    grad = torch.randn(100, generator=torch.Generator().manual_seed(0)) * scale
    parameter = torch.nn.Parameter(torch.zeros(100))
    parameter.grad = grad.clone()
    expected = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    assert clip_(grad, 1.0) == pytest.approx(float(expected), rel=1e-6)
    torch.testing.assert_close(grad, parameter.grad)


@pytest.mark.parametrize("optim", BUFFER_ROWS)
def test_loraplus_gives_b_its_own_rate(optim: str, base: Base) -> None:
    train = TrainSpec(optim=optim, loraplus_lr_ratio=4.0, weight_decay=0.0)
    layout = build_layout(LoraSpec(r=4), base.groups)
    moved = []
    for ratio in (1.0, 4.0):
        state = AdapterState(layout, torch.zeros(BUFFER_ROWS[optim], layout.size), 0)
        optimizer_step_(state, torch.ones(layout.size), dataclasses.replace(train, loraplus_lr_ratio=ratio), 0.01)
        moved.append(state.weights)
    torch.testing.assert_close(moved[1][: layout.num_a], moved[0][: layout.num_a])
    torch.testing.assert_close(moved[1][layout.num_a :], 4.0 * moved[0][layout.num_a :])


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_dropout_mask(p: float) -> None:
    mask = keep_mask((1, 2, 3, 4), (400, 96), p, torch.zeros(()))
    assert sorted(set(mask.flatten().tolist())) == pytest.approx([0.0, 1.0 / (1.0 - p)])
    assert float((mask == 0).float().mean()) == pytest.approx(p, abs=0.01)
    assert torch.equal(mask, keep_mask((1, 2, 3, 4), (400, 96), p, torch.zeros(())))
    for other in ((2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5)):
        assert not torch.equal(mask, keep_mask(other, (400, 96), p, torch.zeros(())))


# -- paging ----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), capacity=st.integers(1, 4), page_steps=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_paging_ledger(
    base: Base, tmp_path_factory: pytest.TempPathFactory, seed: int, capacity: int, page_steps: int
) -> None:
    """Random admits, forgets, turns and steps: the ledger holds, no state is lost or mixed up."""
    rng = random.Random(seed)
    layout = build_layout(LoraSpec(r=2, target_modules=("q_proj",)), base.groups)
    rows = random_rows(0, 2, 3, 5)
    folder: Path = tmp_path_factory.mktemp("pages")
    trainings: dict[str, EngineJob] = {}
    pager = Pager(capacity * 3 * layout.size * 4, str(folder), page_steps, "cpu")
    steps: dict[str, int] = {}
    for at in range(60):
        name = rng.choice(sorted(trainings)) if trainings else ""
        action = rng.choice(["admit", "admit with state", "forget", "turn", "turn", "turn"])
        if action.startswith("admit"):
            name = f"job{at}"
            spec = make_job(name, LoraSpec(r=2, target_modules=("q_proj",)), TrainSpec(seed=at, max_steps=6))
            trainings[name] = EngineJob(spec, rows, layout)
            state = trainings[name].fresh_state("cpu") if action == "admit with state" else None
            pager.admit(trainings[name], state)
            steps[name] = 0
        elif action == "forget" and name:
            state = pager.forget(trainings.pop(name))
            assert (state.step if state else 0) == steps.pop(name)
        elif action == "turn":
            for training in pager.make_resident([t for t in trainings.values() if not t.is_over]):
                assert training.state is not None
                assert training.state.step == training.step == steps[training.spec.name]
                training.state.flat[0] += 1.0
                training.state.step = training.step = training.step + 1
                training.steps_since_paged_in += 1
                steps[training.spec.name] += 1
        pager.check_integrity()
        assert {p.stem for p in folder.glob("*")} <= set(trainings), "a page of a job that is gone"
    for name, training in trainings.items():
        state = pager.fetch(training)
        expected = training.fresh_state("cpu")
        expected.flat[0] += steps[name]
        assert (state or training.fresh_state("cpu")).step == steps[name]
        torch.testing.assert_close((state or training.fresh_state("cpu")).flat, expected.flat)


# -- the engine ------------------------------------------------------------------------------------------------------


def test_forty_jobs_with_room_for_four(base: Base) -> None:
    engine = make_engine(base)
    spec, _ = mixed_job(0)
    one = engine.layout(spec).size * 3 * 4
    engine = make_engine(base, adapter_memory_bytes=4 * one, page_steps=2)
    for i in range(40):
        engine.admit(renamed(spec, f"job{i}", seed=i), random_rows(i, 6, 3, 20, vocab=320))
    reports = []
    while engine.has_work:
        reports += engine.step()
        engine._pager.check_integrity()
    assert {(r.job, r.step) for r in reports} == {(f"job{i}", s) for i in range(40) for s in range(1, 6)}
    assert engine.num_page_outs >= 36
    assert len({engine.state(f"job{i}").sha256() for i in range(40)}) == 40
    engine.close()


def test_members_take_their_steps_together(base: Base) -> None:
    """However long a step is; who comes late, or from elsewhere, has nothing to catch up with."""
    engine = make_engine(base, token_budget=64)
    for seed, (name, tokens) in enumerate({"long": 200, "middle": 30, "short": 8}.items()):
        job = make_job(name, LoraSpec(r=4), TrainSpec(max_steps=12, batch_size=2), nano_batch_tokens=tokens)
        engine.admit(job, random_rows(seed, 20, tokens // 2, tokens // 2, vocab=320))
    taken = Counter({"long": 0, "middle": 0, "short": 0})
    while engine.has_work and min(taken.values()) < 6:
        taken.update(r.job for r in engine.step())
        assert max(taken.values()) - min(taken.values()) <= 1
    late, rows = mixed_job(0)[0], random_rows(9, 20, 8, 8, vocab=320)
    state = AdapterState.fresh(engine.layout(late), late.lora, late.train)
    state.step = 2
    engine.admit(renamed(late, "late", max_steps=5, batch_size=1), rows, state=state)
    before = taken.copy()
    while not engine.is_done("late"):
        taken.update(r.job for r in engine.step())
    assert taken["late"] == 3
    assert {name: taken[name] - before[name] for name in before} == pytest.approx(dict.fromkeys(before, 3), abs=1)


def test_a_row_holds_the_budget_or_one_nano_batch(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(base, token_budget=100)
    for i in range(6):
        engine.admit(mixed_job(i)[0], random_rows(i, 12, 3, 90, vocab=320))
    rows: list[list[int]] = []

    def recorded(resident: list[EngineJob], room: int) -> list[tuple[EngineJob, Request]]:
        picked = pick(resident, room)
        rows.append([request.num_tokens for _, request in picked])
        return picked

    pick = engine._pick
    monkeypatch.setattr(engine, "_pick", recorded)
    train_all(engine)
    assert all(len(row) == 1 or sum(row) <= 100 for row in rows)
    assert max(len(row) for row in rows) >= 3


def test_reports(base: Base) -> None:
    engine = make_engine(base)
    spec, rows = mixed_job(0)[0], random_rows(0, 5, 3, 20, vocab=320)
    engine.admit(renamed(spec, "job", batch_size=2, max_steps=3), rows)
    assert engine.jobs == ("job",)
    reports = [r for r in train_all(engine) if isinstance(r, StepReport)]
    assert [r.step for r in reports] == [1, 2, 3]
    assert [r.data_epoch for r in reports] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert sum(r.num_tokens for r in reports) == len(rows.tokens)
    assert sum(r.num_target_tokens for r in reports) == rows.num_targets().sum()
    assert all(r.grad_norm > 0 and r.seconds > 0 for r in reports)
    assert engine.is_done("job")
    assert engine.jobs == ()
    assert engine.progress("job").step == 3
    assert engine.step() == []


def test_refusals(base: Base) -> None:
    engine = make_engine(base)
    spec, rows = mixed_job(0)[0], random_rows(0, 5, 3, 20, vocab=320)
    engine.admit(spec, rows)
    with pytest.raises(JobError, match="already here"):
        engine.admit(spec, rows)
    other = renamed(spec, "other")
    with pytest.raises(JobError, match="match no linear of the base; it has"):
        engine.admit(dataclasses.replace(other, lora=LoraSpec(target_modules=("nope",))), rows)
    with pytest.raises(JobError, match="longer than the base's 256 positions"):
        engine.admit(other, random_rows(0, 1, 257, 257, vocab=320))
    sgd = AdapterState.fresh(engine.layout(spec), spec.lora, TrainSpec(optim="sgd"))
    with pytest.raises(JobError, match="has 1 buffers, adamw needs 3"):
        engine.admit(renamed(other, "other", optim="adamw"), rows, state=sgd)
    with pytest.raises(JobError, match="saved state has shape"):
        AdapterState.from_arrays(engine.layout(spec), {"flat": np.zeros((3, 5)), "step": np.asarray([1])})
    assert engine.jobs == (spec.name,)


def test_an_evicted_job_never_started_has_no_state(base: Base) -> None:
    engine = make_engine(base)
    spec, rows = mixed_job(0)[0], random_rows(0, 5, 3, 20, vocab=320)
    engine.admit(spec, rows)
    assert engine.evict(spec.name) is None
    engine.admit(spec, rows)
    assert not [r for r in train_all(engine) if isinstance(r, StepFailure)]
    state = engine.evict(spec.name)
    assert state is not None
    assert state.step == 5


def test_a_failed_job_keeps_its_last_good_state(base: Base) -> None:
    engine = make_engine(base)
    spec, rows = renamed(mixed_job(0)[0], "job", learning_rate=1e30), random_rows(0, 24, 3, 20, vocab=320)
    engine.admit(spec, rows)
    failures = [r for r in train_all(engine) if isinstance(r, StepFailure)]
    assert [(f.job, f.step) for f in failures] == [("job", 1)]
    assert engine.state("job").step == 1
    assert torch.isfinite(engine.state("job").flat).all()
    assert not engine.is_done("job")


def test_a_row_says_what_it_held_and_whether_it_was_full(base: Base) -> None:
    engine = make_engine(base, token_budget=256)
    for seed, (name, rank) in enumerate({"a": 4, "b": 16}.items()):
        job = make_job(name, LoraSpec(r=rank), TrainSpec(max_steps=2, batch_size=2), nano_batch_tokens=40)
        engine.admit(job, random_rows(seed, 8, 40, 40, vocab=320))
    engine.step()
    assert engine.last_row == RowFacts(160, 2.0, 80 * 4 + 80 * 16, 256, False)
    engine.row_tokens = 100
    engine.step()
    assert engine.last_row == RowFacts(80, 1.0, 80 * 4, 100, True)
    engine.row_tokens = 10_000
    engine.step()
    assert engine.last_row == RowFacts(80, 1.0, 80 * 16, 256, False)
    engine.step()
    assert engine.last_row is None
