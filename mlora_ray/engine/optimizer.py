"""Optimizer step of one adapter over its flat buffer: clipping, AdamW, SGD, Lion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.types import TrainSpec

ADAMW_BETA2 = 0.999  # torch's and transformers' default
LION_BETA2 = 0.99  # arXiv 2302.06675


def clip_(grad_P: Tensor, max_norm: float) -> float:
    """Scale the gradient to at most `max_norm` (0: leave it). Returns its norm before. May be inf or nan."""
    norm = float(torch.linalg.vector_norm(grad_P))
    if max_norm and math.isfinite(norm) and norm + 1e-6 > max_norm:
        grad_P.mul_(max_norm / (norm + 1e-6))
    return norm


def optimizer_step_(state: AdapterState, grad_P: Tensor, train: TrainSpec, rate: float) -> None:
    """Change weights and moments in place and count the step. B's rate is `loraplus_lr_ratio` times A's (LoRA+)."""
    split = state.layout.num_a
    state.step += 1
    for part, lr in ((slice(0, split), rate), (slice(split, None), rate * train.loraplus_lr_ratio)):
        rows = [row[part] for row in state.flat]
        _UPDATES[train.optim](rows, grad_P[part], lr, train, state.step)


def _adamw(rows: list[Tensor], grad: Tensor, lr: float, train: TrainSpec, step: int) -> None:
    steps = torch.tensor(float(step), device=grad.device)
    torch._fused_adamw_(
        [rows[0]],
        [grad],
        [rows[1]],
        [rows[2]],
        [],
        [steps],
        lr=lr,
        beta1=train.adam_beta1,
        beta2=ADAMW_BETA2 if train.adam_beta2 is None else train.adam_beta2,
        weight_decay=train.weight_decay,
        eps=train.adam_epsilon,
        amsgrad=False,
        maximize=False,
    )


def _sgd(rows: list[Tensor], grad: Tensor, lr: float, train: TrainSpec, step: int) -> None:
    if train.weight_decay:
        grad.add_(rows[0], alpha=train.weight_decay)
    rows[0].add_(grad, alpha=-lr)


def _lion(rows: list[Tensor], grad: Tensor, lr: float, train: TrainSpec, step: int) -> None:
    weights, moment = rows
    if train.weight_decay:
        weights.mul_(1.0 - lr * train.weight_decay)
    weights.add_(torch.lerp(grad, moment, train.adam_beta1).sign_(), alpha=-lr)
    moment.lerp_(grad, 1.0 - (LION_BETA2 if train.adam_beta2 is None else train.adam_beta2))


_UPDATES = {"adamw": _adamw, "sgd": _sgd, "lion": _lion}
