"""A base proves itself before it trains: on a tiny random copy of its config, packed rows equal the stock model alone.

A model class that we do not know may mix sequences of a row, drop the mask or leave out a step of its head, and say
nothing. So four things are tried: loss and LoRA gradients equal those of the stock model, one sequence at a time; a
neighbour's NaN changes no bit; nor does a place in the row; one backward runs. Windows and rope that changes with the
length are made shorter than the sequences they are tried on. Seconds, and once: the answer is kept by
`proof_cache.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mlora_ray.bases.tiny_config import num_layers, tiny_config
from mlora_ray.data.tokenized_rows import Rows, make_rows
from mlora_ray.engine.adapter_layout import AdapterLayout, ModuleSlot, a_view, b_view, build_layout
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import Base, prepare_base
from mlora_ray.engine.executor import run_row
from mlora_ray.engine.packed_row import Request, Scratch
from mlora_ray.types import BaseSpec, LoraSpec, TrainSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# In fp32: families that are right are off by 4e-6 at most (Gemma 4: 1.5e-5), those that are wrong by 0.03 and more.
LOSS_LIMIT, GRADIENT_LIMIT = 1e-4, 2e-3
LENGTHS = (5, 40, 19, 70)  # the probe's sequences: below and above the tiny copy's windows and rope limits
NEIGHBOUR_LENGTHS = (33, 3, 90)
MAX_PARAMETERS = 150_000_000  # of the tiny copy
LORA = LoraSpec(r=1, lora_alpha=2.0, init_lora_weights="random")
SPREADS = (4.0, 1.0)  # of random weights, over the initial ones: uneven attention; less where that overflows


class _Unfit(Exception):
    """What a base fails at, in one sentence."""


class _Probe(NamedTuple):
    """One base with one random adapter on it."""

    base: Base
    state: AdapterState
    rows: Rows
    neighbours: Rows


def prove(config: PreTrainedConfig, dtype: torch.dtype, device: str = "cpu") -> str:
    """Why a base of this config cannot train here, in one sentence; empty when all holds. Random state is untouched."""
    with _quiet(), _one_thread(), torch.random.fork_rng():
        try:
            stock = _tiny_stock(config)
            _try_equal(stock.to(device))
            _try_bits(stock.to(dtype))
        except _Unfit as reason:
            return str(reason)
    return ""


def _tiny_stock(config: PreTrainedConfig) -> nn.Module:
    """A random model with every kind of module that the whole one has, its attention the plain one."""
    kinds, _ = _tried(lambda: _kinds(config), "transformers cannot make it as a causal language model")
    try:
        return _tried(lambda: _small_of(config, kinds, True), "a small copy of it cannot be made")
    except _Unfit as narrow:
        try:  # some classes want the number of heads that they have
            return _tried(lambda: _small_of(config, kinds, False), "a small copy of it cannot be made")
        except _Unfit:
            raise narrow from None


def _small_of(config: PreTrainedConfig, kinds: set[str], is_narrow: bool) -> nn.Module:
    total, layers = num_layers(config), 0
    while True:
        tiny = tiny_config(config, layers, is_narrow)
        found, num_parameters = _kinds(tiny)
        layers = num_layers(tiny)
        if layers >= total or kinds <= found:
            break
        layers = min(total, 2 * layers)
    if num_parameters > MAX_PARAMETERS:
        raise _Unfit(f"a small copy of it has {num_parameters:,} parameters: too many to try things on")
    return _random(tiny)


def _kinds(config: PreTrainedConfig) -> tuple[set[str], int]:
    """Classes of all modules, and the number of parameters."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=False)
    return {type(module).__name__ for module in model.modules()}, sum(p.numel() for p in model.parameters())


def _random(config: PreTrainedConfig) -> nn.Module:
    from transformers import AutoModelForCausalLM

    for spread in SPREADS:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        )
        model.eval().requires_grad_(False)
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.mul_(spread) if parameter.ndim > 1 else parameter.add_(noise, alpha=0.1)
        if torch.isfinite(model(input_ids=torch.arange(4, 44)[None], use_cache=False).logits).all():
            return model
    raise _Unfit("a small copy of it with random weights gives no finite logits")


def _try_equal(stock: nn.Module) -> None:
    """Packed among neighbours, in fp32, against the stock model one sequence at a time."""
    probe = _probe(stock)
    loss, grads = _packed(probe, _with_neighbours)
    stock_loss, stock_grads = _tried(lambda: _alone(stock, probe), "its stock model does not train")
    if not np.isfinite(stock_loss):
        raise _Unfit("its stock model gives no finite loss on random weights")
    loss_off = abs(loss / stock_loss - 1.0)
    size = max(float(grad.norm()) for grad in stock_grads.values())
    off = max(
        float((grads[name] - grad).norm() / max(float(grad.norm()), 1e-3 * size)) for name, grad in stock_grads.items()
    )
    if not (loss_off <= LOSS_LIMIT and off <= GRADIENT_LIMIT):
        raise _Unfit(
            "packed sequences do not give what its stock model gives one at a time "
            f"(loss off by {loss_off:.1e}, gradients by {off:.1e})"
        )


def _try_bits(stock: nn.Module) -> None:
    """In the dtype it trains in: the same bits alone, elsewhere in a fuller row, and beside an adapter of NaN."""
    probe = _probe(stock)
    alone = _packed(probe, lambda requests, _: requests)
    for name, arranged in ARRANGED.items():
        loss, grads = _packed(probe, arranged)
        if loss != alone[0] or any(not torch.equal(grads[slot], grad) for slot, grad in alone[1].items()):
            raise _Unfit(name)


def _beside_nan(requests: list[Request], neighbour: Callable[[float], list[Request]]) -> list[Request]:
    bad = neighbour(float("nan"))
    return [bad[0], requests[0], bad[1], requests[1], bad[2]]


def _with_neighbours(requests: list[Request], neighbour: Callable[[float], list[Request]]) -> list[Request]:
    others = neighbour(1.0)
    return [others[2], others[0], requests[0], others[1], requests[1]]


def _before_one(requests: list[Request], neighbour: Callable[[float], list[Request]]) -> list[Request]:
    return [requests[0], neighbour(2.0)[0], requests[1]]


Arrange = Callable[[list[Request], Callable[[float], list[Request]]], list[Request]]
ARRANGED: dict[str, Arrange] = {
    "a neighbour's NaN in the same row changes another sequence": _beside_nan,
    "a sequence's bits change with its place in a row and its neighbours": _with_neighbours,
    "a sequence's bits change with its neighbours": _before_one,
}


def _probe(stock: nn.Module) -> _Probe:
    vocab = int(stock.config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]
    rng = np.random.default_rng(0)

    def rows(lengths: tuple[int, ...]) -> Rows:
        return make_rows([(rng.integers(4, vocab, n).tolist(), [at > n // 3 for at in range(n)]) for n in lengths])

    spec = BaseSpec(name="tiny copy", path="", dtype=str(stock.dtype).removeprefix("torch."))
    base = _tried(lambda: prepare_base(copy.deepcopy(stock), spec), "our modules do not fit into it")
    layout = build_layout(LORA, base.groups)
    state = AdapterState.fresh(layout, LORA, TrainSpec(optim="sgd"), str(base.device))
    state.weights.copy_(state.weights.to(base.dtype))
    return _Probe(base, state, rows(LENGTHS), rows(NEIGHBOUR_LENGTHS))


def _packed(probe: _Probe, arrange: Arrange) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the probe's two nano-batches in one packed row with whatever `arrange` puts beside them."""
    own = _scratch(probe, 1.0)
    requests = [Request(own, probe.rows, (0, 1), 0.1, True), Request(own, probe.rows, (2, 3), 0.1, False)]

    def neighbour(factor: float) -> list[Request]:
        held = _scratch(probe, factor)
        return [Request(held, probe.neighbours, (at,), 0.1, at == 0) for at in range(len(NEIGHBOUR_LENGTHS))]

    row = arrange(requests, neighbour)
    results = _tried(lambda: run_row(probe.base, row, has_backward=True), "a packed row does not run through it")
    assert own.grad_P is not None
    loss = sum(result.loss_sum for result, request in zip(results, row, strict=True) if request.scratch is own)
    return loss, _by_module(probe.state.layout, own.grad_P)


def _scratch(probe: _Probe, factor: float) -> Scratch:
    """The probe's adapter with its weights times `factor`, and gradients of its own."""
    weights = (probe.state.weights * factor).to(probe.base.dtype)
    return Scratch(probe.state.layout, weights, torch.zeros_like(probe.state.weights))


def _by_module(layout: AdapterLayout, flat_P: Tensor) -> dict[str, Tensor]:
    grads = {}
    for slot in layout.modules:
        grads[f"{slot.name}.A"], grads[f"{slot.name}.B"] = a_view(flat_P, slot), b_view(flat_P, slot)
    return grads


def _alone(stock: nn.Module, probe: _Probe) -> tuple[float, dict[str, Tensor]]:
    """The same through the stock model: LoRA added by hooks as PEFT adds it, a forward for each sequence."""
    weights_P = probe.state.weights.clone().requires_grad_()
    hooks = [
        stock.get_submodule(slot.name).register_forward_hook(_lora(weights_P, slot))
        for slot in probe.state.layout.modules
    ]
    total = 0.0
    rows = probe.rows
    try:
        for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
            ids = torch.from_numpy(rows.tokens[start:end].astype(np.int64)).to(weights_P.device)
            labels = ids.masked_fill(~torch.from_numpy(rows.is_target[start:end]).to(ids.device), -100)
            logits = stock(input_ids=ids[None], use_cache=False).logits[0, :-1]
            loss = nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
            (loss * 0.1).backward()
            total += float(loss.detach())
    finally:
        for hook in hooks:
            hook.remove()
    assert weights_P.grad is not None
    return total, _by_module(probe.state.layout, weights_P.grad)


def _lora(weights_P: Tensor, slot: ModuleSlot) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def add(_module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out + (args[0] @ a_view(weights_P, slot).t()) @ b_view(weights_P, slot).t() * slot.scale

    return add


def _tried(act: Callable[[], Any], failing: str) -> Any:
    """What `act` gives. Whatever the base's own code raises is the reason that it is unfit."""
    try:
        return act()
    except _Unfit:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise _Unfit(f"{failing} ({type(error).__name__}: {said})") from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny products are slower on many threads: 0.4 s became 35 s where other processes wanted the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers warns of random weights and unknown attention; here both are meant."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
