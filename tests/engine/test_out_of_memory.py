"""Out of memory: rows get smaller, bits stay, and only an adapter that does not fit alone fails; jobs that are held."""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
import torch

from mlora_ray.engine import evaluation as evaluation_module
from mlora_ray.engine import executor as executor_module
from mlora_ray.engine.adapter_layout import AdapterLayout
from mlora_ray.engine.base import Base
from mlora_ray.engine.engine import Engine, StepFailure
from mlora_ray.engine.executor import RowResult
from mlora_ray.engine.executor import run_row as run_row_within_memory
from mlora_ray.engine.memory_budget import is_out_of_memory
from mlora_ray.engine.packed_row import Request, Scratch, padded_rows
from mlora_ray.types import StepReport
from tests.engine.jobs import make_engine, mixed_job, random_rows, renamed, train_all
from tests.engine.models import as_base, stock_model

NUM_JOBS = 5
CPU_SAYS = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
CPU_SAYS += "you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"
ERRORS = {
    "a device's": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "Python's": MemoryError(),
    "torch's on the CPU": RuntimeError(CPU_SAYS),
    "Windows' words": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
}


@pytest.fixture(scope="module")
def base() -> Base:
    return as_base(stock_model("Llama"))


class Machine:
    """A machine whose memory holds a row of `tokens` tokens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int, error: Exception) -> None:
        self.tokens, self.error = tokens, error
        self.rows: list[int] = []  # tokens of each row that was tried
        self.num_raised = 0
        self.after_backward = False
        monkeypatch.setattr(executor_module, "run_row", self.run_row)
        monkeypatch.setattr(evaluation_module, "run_row", self.run_row)

    def run_row(self, base: Base, requests: list[Request], has_backward: bool) -> list[RowResult]:
        self.rows.append(sum(padded_rows(r.num_tokens) for r in requests))
        is_short = self.rows[-1] > self.tokens
        if is_short and not self.after_backward:
            self.num_raised += 1
            raise self.error
        results = run_row_within_memory(base, requests, has_backward)
        if is_short:  # the last allocation of the row fails: gradients were added already
            self.num_raised += 1
            raise self.error
        return results


def admit_all(engine: Engine, names: range = range(NUM_JOBS)) -> None:
    for i in names:
        spec, rows = mixed_job(i)
        engine.admit(spec, rows._replace(tokens=rows.tokens % 320))


def hashes(engine: Engine) -> dict[str, str]:
    return {f"job{i}": engine.state(f"job{i}").sha256() for i in range(NUM_JOBS)}


@pytest.fixture(scope="module")
def undisturbed(base: Base) -> dict[str, str]:
    engine = make_engine(base)
    admit_all(engine)
    train_all(engine)
    return hashes(engine)


@pytest.mark.parametrize("kind", sorted(ERRORS))
def test_every_kind_of_out_of_memory_is_known(kind: str) -> None:
    assert is_out_of_memory(ERRORS[kind])


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), OSError(28, "disk")])
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_torchs_own_allocator_is_understood() -> None:
    """The real error of a machine that has not so much: an exabyte."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(numpys.value)


@pytest.mark.parametrize(("tokens", "after_backward"), [(160, False), (200, True), (300, False)])
def test_rows_get_smaller_and_bits_stay(
    base: Base, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, tokens: int, after_backward: bool
) -> None:
    machine = Machine(monkeypatch, tokens, ERRORS["torch's on the CPU"])
    machine.after_backward = after_backward
    engine = make_engine(base)
    admit_all(engine)
    outcomes = train_all(engine)
    assert machine.num_raised > 0
    assert [o for o in outcomes if isinstance(o, StepFailure)] == []
    assert sorted((o.job, o.step) for o in outcomes) == sorted(
        (f"job{i}", s) for i in range(NUM_JOBS) for s in range(1, 6)
    )
    assert engine.budget.token_budget in (256, 128)
    assert f"rows hold at most {engine.budget.token_budget} now" in engine.warning
    assert hashes(engine) == undisturbed


def test_memory_that_gets_short_in_the_middle(
    base: Base, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open steps have gradients from rows before: they replay from their first nano-batch."""
    machine = Machine(monkeypatch, 10_000, ERRORS["a device's"])
    engine = make_engine(base)
    admit_all(engine)
    outcomes = []
    for limit in (10_000, 10_000, 10_000, 400, 400, 10_000, 200):
        machine.tokens = limit
        outcomes += engine.step()
    machine.tokens = 160
    outcomes += train_all(engine)
    assert machine.num_raised >= 2
    assert all(isinstance(o, StepReport) for o in outcomes)
    assert len(outcomes) == NUM_JOBS * 5
    assert hashes(engine) == undisturbed


def test_the_budget_halves_once_for_each_row_that_did_not_fit(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 512, ERRORS["Python's"])
    engine = make_engine(base)
    admit_all(engine)
    assert engine.warning == ""
    engine.step()
    assert (engine.budget.token_budget, engine.warning, machine.num_raised) == (512, "", 0)
    machine.tokens = 100
    assert engine.step() == []
    assert (engine.budget.token_budget, machine.num_raised) == (256, 1)
    assert engine.step() == []
    assert (engine.budget.token_budget, machine.num_raised) == (128, 2)


def test_only_what_does_not_fit_alone_fails(
    base: Base, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ninth job has one row of 250 tokens among short ones; the machine holds 200."""
    machine = Machine(monkeypatch, 200, ERRORS["torch's on the CPU"])
    engine = make_engine(base)
    admit_all(engine)
    large = dataclasses.replace(renamed(mixed_job(0)[0], "large", batch_size=1, max_steps=40))
    rows = random_rows(3, 20, 5, 9, vocab=320)
    long_row = random_rows(4, 1, 250, 250, vocab=320)
    together = rows._replace(
        tokens=np.concatenate([rows.tokens, long_row.tokens]),
        is_target=np.concatenate([rows.is_target, long_row.is_target]),
        offsets=np.concatenate([rows.offsets, rows.offsets[-1:] + 250]),
    )
    engine.admit(large, together)
    outcomes = train_all(engine)
    failures = [o for o in outcomes if isinstance(o, StepFailure)]
    assert [f.job for f in failures] == ["large"]
    assert "quarantined: a nano-batch of 250 tokens does not fit into memory alone (about " in failures[0].error
    assert "you tried to allocate 99 bytes" in failures[0].error
    assert engine.state("large").step == failures[0].step < 40
    assert torch.isfinite(engine.state("large").flat).all()
    assert hashes(engine) == undisturbed
    assert machine.rows.count(256) >= 1


def test_a_nano_batch_that_fits_once_others_have_let_go(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone means: with no other step open. Then it fits, and nobody fails."""
    engine = make_engine(base, token_budget=64)
    undisturbed = make_engine(base, token_budget=64)
    for one in (engine, undisturbed):
        for i in range(3):
            spec = renamed(mixed_job(0)[0], f"job{i}", seed=i, batch_size=2, gradient_accumulation_steps=4)
            one.admit(dataclasses.replace(spec, nano_batch_tokens=64), random_rows(i, 20, 50, 64, vocab=320))
    train_all(undisturbed)
    raised = []

    def short_while_others_are_open(base: Base, requests: list[Request], has_backward: bool) -> list[RowResult]:
        if len(engine._scratch._open) > 1:
            raised.append(len(requests))
            raise MemoryError("of open steps")
        return run_row_within_memory(base, requests, has_backward)

    # A second step opens only where the first waits: let two be open when memory gets short.
    while len(engine._scratch._open) < 2:
        for name in ("job0", "job1"):
            training = engine._trainings[name]
            engine._pager.make_resident(list(engine._trainings.values()))
            (picked,) = engine._pick([training], 1)
            training.sent_nano -= 1
            assert picked[0] is training
    monkeypatch.setattr(executor_module, "run_row", short_while_others_are_open)
    outcomes = train_all(engine)
    assert raised == [1]
    assert all(isinstance(o, StepReport) for o in outcomes)
    assert "fewer optimizer steps are open" in engine.warning
    for i in range(3):
        assert engine.state(f"job{i}").sha256() == undisturbed.state(f"job{i}").sha256()


def test_the_row_that_failed_is_not_kept_in_memory(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error's traceback would hold the tensors of the row, when the next one needs their memory."""
    held: list[weakref.ref[torch.Tensor]] = []

    def run(base: Base, requests: list[Request], has_backward: bool) -> list[RowResult]:
        assert [r for r in held if r() is not None] == []
        if sum(padded_rows(r.num_tokens) for r in requests) > 160:
            activations = torch.zeros(1000)
            held.append(weakref.ref(activations))
            raise MemoryError
        return run_row_within_memory(base, requests, has_backward)

    monkeypatch.setattr(executor_module, "run_row", run)
    engine = make_engine(base)
    admit_all(engine)
    for _ in range(4):
        assert all(isinstance(o, StepReport) for o in engine.step())
    assert len(held) == 2


def test_evaluation_halves_its_rows_too(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(base)
    requests = [(None, None, random_rows(i, 30, 20, 60, vocab=320)) for i in range(3)]
    expected = engine.evaluate(requests)
    machine = Machine(monkeypatch, 10_000, ERRORS["a device's"])
    engine.evaluate(requests)
    machine.tokens = max(machine.rows) - 1
    smaller = make_engine(base, token_budget=1024)
    assert max(machine.rows) == 512
    machine.rows.clear()
    assert machine.num_raised == 0
    with pytest.raises(torch.OutOfMemoryError):  # one nano-batch of an evaluation has up to 512 tokens
        smaller.evaluate(requests)
    assert machine.num_raised > 1
    machine.tokens = 512
    assert make_engine(base, token_budget=2048).evaluate(requests) == expected


def test_a_held_job_waits_at_its_boundary_and_goes_on_with_the_same_bits(
    base: Base, undisturbed: dict[str, str]
) -> None:
    engine = make_engine(base)
    admit_all(engine)
    outcomes = []
    for _ in range(3):
        outcomes += engine.step()
    engine.hold("job1")
    before = engine.state("job1").sha256()
    held_at = engine.progress("job1").step
    outcomes += train_all(engine)
    assert not engine.has_work
    assert engine.step() == []
    assert engine.jobs == ("job1",)
    assert (engine.progress("job1").step, engine.state("job1").sha256()) == (held_at, before)
    assert held_at < 5
    engine.unhold("job1")
    assert engine.has_work
    outcomes += train_all(engine)
    assert len(outcomes) == NUM_JOBS * 5
    assert hashes(engine) == undisturbed


def test_held_jobs_make_room_for_others(base: Base) -> None:
    """Held ones are resident and have had no turn: they go to disk, not the others hungry."""
    spec, rows = mixed_job(0)
    rows = rows._replace(tokens=rows.tokens % 320)
    one = make_engine(base).layout(spec).size * 3 * 4
    engine = make_engine(base, adapter_memory_bytes=2 * one)
    for i in range(4):
        engine.admit(renamed(spec, f"job{i}", seed=i), rows)
    engine.step()
    resident = [name for name in engine.jobs if engine.progress(name).is_resident]
    assert len(resident) == 2
    for name in resident:
        engine.hold(name)
    done = {o.job for o in train_all(engine)} - set(resident)
    assert done == set(engine._trainings) - set(resident)
    for name in resident:
        engine.unhold(name)
    train_all(engine)
    assert engine.jobs == ()
    engine.close()


def test_no_memory_to_open_one_more_step(
    base: Base, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps may be open at a time: the others wait until one is done."""
    engine = make_engine(base)
    take, num_raised = engine._scratch.take, 0

    def take_two(layout: AdapterLayout, weights: torch.Tensor) -> Scratch:
        nonlocal num_raised
        if len(engine._scratch._open) == 2:
            num_raised += 1
            raise ERRORS["torch's on the CPU"]
        return take(layout, weights)

    monkeypatch.setattr(engine._scratch, "take", take_two)
    admit_all(engine)
    outcomes = train_all(engine)
    assert num_raised > 0
    assert len(outcomes) == NUM_JOBS * 5
    assert all(isinstance(o, StepReport) for o in outcomes)
    assert "fewer optimizer steps are open" in engine.warning
    assert hashes(engine) == undisturbed


def test_an_adapter_whose_gradients_do_not_fit_alone_fails_alone(
    base: Base, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(base)
    take = engine._scratch.take
    large = renamed(mixed_job(0)[0], "large")
    large = dataclasses.replace(large, lora=dataclasses.replace(large.lora, r=24))
    layout_of_large = engine.layout(large)

    def take_small(layout: AdapterLayout, weights: torch.Tensor) -> Scratch:
        if layout is layout_of_large:
            raise MemoryError("of 24 ranks")
        return take(layout, weights)

    monkeypatch.setattr(engine._scratch, "take", take_small)
    engine.admit(large, random_rows(3, 20, 5, 9, vocab=320))
    admit_all(engine)
    failures = [o for o in train_all(engine) if isinstance(o, StepFailure)]
    assert [(f.job, f.step) for f in failures] == [("large", 0)]
    assert failures[0].error == "quarantined: its gradients do not fit into memory alone: MemoryError: of 24 ranks"
    assert hashes(engine) == undisturbed
