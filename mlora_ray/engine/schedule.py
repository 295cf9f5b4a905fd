"""Learning rate of a step: the schedules of transformers under their names, as functions of step and total."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mlora_ray.types import TrainSpec


class At(NamedTuple):
    """Where a job is in its schedule; `extra` are its `lr_scheduler_kwargs`, checked where the job was read."""

    step: int
    warmup: int
    total: int
    rate: float  # the highest
    extra: dict[str, Any]

    @property
    def done(self) -> float:
        """The part behind us of what follows the warmup."""
        return (self.step - self.warmup) / max(1, self.total - self.warmup)


def learning_rate(train: TrainSpec, step: int, total_steps: int) -> float:
    """Rate of step `step` (0-based), as transformers' schedules of the same names give it."""
    warmup = train.warmup_steps or math.ceil(total_steps * train.warmup_ratio)
    at = At(step, warmup, total_steps, train.learning_rate, dict(train.lr_scheduler_kwargs))
    if step < warmup and train.lr_scheduler_type not in _OWN_WARMUP:
        return train.learning_rate * step / warmup
    return train.learning_rate * SCHEDULES[train.lr_scheduler_type](at)


def _linear(at: At) -> float:
    return max(0.0, 1.0 - at.done)


def _cosine(at: At) -> float:
    return max(0.0, _wave(at.done, at.extra))


def _wave(done: float, extra: dict[str, Any]) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * float(extra.get("num_cycles", 0.5)) * 2.0 * done))


def _cosine_with_restarts(at: At) -> float:
    if at.done >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(at.extra.get("num_cycles", 1)) * at.done) % 1.0))))


def _polynomial(at: At) -> float:
    end, power = at.extra.get("lr_end", 1e-7), at.extra.get("power", 1.0)
    remaining = 1 - (at.step - at.warmup) / (at.total - at.warmup)
    return float(((at.rate - end) * remaining**power + end) / at.rate)


def _inverse_sqrt(at: At) -> float:
    timescale = at.extra.get("timescale", at.warmup or 10_000)
    return 1.0 / math.sqrt((at.step + timescale - at.warmup) / timescale)


def _least(at: At) -> float:
    """The lowest rate as a part of the highest."""
    return float(at.extra["min_lr"] / at.rate if "min_lr" in at.extra else at.extra["min_lr_rate"])


def _above(least: float, factor: float) -> float:
    return max(0.0, factor * (1 - least) + least)


def _cosine_with_min_lr(at: At) -> float:
    return _above(_least(at), _wave(at.done, at.extra))


def _cosine_warmup_with_min_lr(at: At) -> float:
    """Counts steps from 1; its warmup begins at `warmup_lr_rate`."""
    if at.step >= at.warmup:
        return _above(_least(at), _wave((at.step - at.warmup + 1.0) / max(1.0, at.total - at.warmup), at.extra))
    if "warmup_lr_rate" not in at.extra:
        return (at.step + 1.0) / at.warmup
    first = float(at.extra["warmup_lr_rate"])
    return first + (1.0 - first) * at.step / max(1, at.warmup - 1)


def _warmup_stable_decay(at: At) -> float:
    least, decay = at.extra.get("min_lr_ratio", 0.0), at.extra["num_decay_steps"]
    stable = at.extra.get("num_stable_steps", at.total - at.warmup - decay)
    if at.step < at.warmup:
        return _above(least, _RISES[at.extra.get("warmup_type", "linear")](at.step / at.warmup))
    if at.step < at.warmup + stable:
        return 1.0
    if at.step >= at.warmup + stable + decay:
        return float(least)
    done = (at.step - at.warmup - stable) / max(1, decay)
    falls = {"linear": 1.0 - done, "cosine": _wave(done, at.extra), "1-sqrt": 1.0 - math.sqrt(done)}
    return _above(least, falls[at.extra.get("decay_type", "cosine")])


_RISES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: done,
    "cosine": lambda done: 0.5 * (1.0 - math.cos(math.pi * done)),
    "1-sqrt": lambda done: 1.0 - math.sqrt(1.0 - done),
}
SCHEDULES: dict[str, Callable[[At], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": lambda at: 1.0,
    "constant_with_warmup": lambda at: 1.0,
    "inverse_sqrt": _inverse_sqrt,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "cosine_warmup_with_min_lr": _cosine_warmup_with_min_lr,
    "warmup_stable_decay": _warmup_stable_decay,
}
_OWN_WARMUP = ("constant", "cosine_warmup_with_min_lr", "warmup_stable_decay")
