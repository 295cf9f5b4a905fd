"""Optimizer step of one adapter over its flat buffer: schedule, clipping, AdamW, SGD, Lion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.types import TrainSpec

ADAMW_BETAS, ADAMW_EPS = (0.9, 0.999), 1e-8  # torch's and transformers' defaults
LION_BETAS = (0.9, 0.99)  # arXiv 2302.06675


def learning_rate(train: TrainSpec, step: int, total_steps: int) -> float:
    """Rate of step `step` (0-based), as transformers' schedules of the same names give it."""
    warmup = math.ceil(total_steps * train.warmup_ratio)
    if train.lr_scheduler_type == "constant":
        return train.learning_rate
    if step < warmup:
        return train.learning_rate * step / max(1, warmup)
    done = (step - warmup) / max(1, total_steps - warmup)
    if train.lr_scheduler_type == "constant_with_warmup":
        return train.learning_rate
    if train.lr_scheduler_type == "cosine":
        return train.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
    return train.learning_rate * max(0.0, 1.0 - done)


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
        _UPDATES[train.optim](rows, grad_P[part], lr, train.weight_decay, state.step)


def _adamw(rows: list[Tensor], grad: Tensor, lr: float, weight_decay: float, step: int) -> None:
    steps = torch.tensor(float(step), device=grad.device)
    torch._fused_adamw_(
        [rows[0]],
        [grad],
        [rows[1]],
        [rows[2]],
        [],
        [steps],
        lr=lr,
        beta1=ADAMW_BETAS[0],
        beta2=ADAMW_BETAS[1],
        weight_decay=weight_decay,
        eps=ADAMW_EPS,
        amsgrad=False,
        maximize=False,
    )


def _sgd(rows: list[Tensor], grad: Tensor, lr: float, weight_decay: float, step: int) -> None:
    if weight_decay:
        grad.add_(rows[0], alpha=weight_decay)
    rows[0].add_(grad, alpha=-lr)


def _lion(rows: list[Tensor], grad: Tensor, lr: float, weight_decay: float, step: int) -> None:
    weights, moment = rows
    if weight_decay:
        weights.mul_(1.0 - lr * weight_decay)
    weights.add_(torch.lerp(grad, moment, LION_BETAS[0]).sign_(), alpha=-lr)
    moment.lerp_(grad, 1.0 - LION_BETAS[1])


_UPDATES = {"adamw": _adamw, "sgd": _sgd, "lion": _lion}
