"""Every schedule gives the rate of transformers' schedule of that name, at every step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import SchedulerType, get_scheduler

from mlora_ray.config.schedule_fields import NEED_METRIC, SCHEDULE_KWARGS
from mlora_ray.engine.schedule import SCHEDULES, learning_rate
from mlora_ray.types import TrainSpec

RATE = 0.3
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.25}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"lr_end": 0.01, "power": 2.5}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 60}),
    ("cosine_with_min_lr", {"min_lr": 0.02}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 0.03, "warmup_lr_rate": 0.2, "num_cycles": 0.75}),
    ("warmup_stable_decay", {"num_decay_steps": 5}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "num_stable_steps": 4, "decay_type": "linear"}),
    ("warmup_stable_decay", {"num_decay_steps": 6, "warmup_type": "cosine", "decay_type": "1-sqrt"}),
    ("warmup_stable_decay", {"num_decay_steps": 6, "warmup_type": "1-sqrt", "min_lr_ratio": 0.1, "num_cycles": 0.4}),
]


def theirs(kind: str, kwargs: dict[str, Any], warmup: int, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = get_scheduler(kind, optimizer, warmup, steps, scheduler_specific_kwargs=kwargs)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(("kind", "kwargs"), KINDS, ids=str)
@pytest.mark.parametrize("warmup", [0.0, 0.13, 0.5, 1.0, 1, 3, 50])
def test_every_step_of_every_schedule(kind: str, kwargs: dict[str, Any], warmup: float) -> None:
    """Equal but for the last digit: a warmup step is rate * step / warmup here, rate * (step / warmup) there."""
    given = {"warmup_steps": warmup} if isinstance(warmup, int) else {"warmup_ratio": warmup}
    train = TrainSpec(
        learning_rate=RATE,
        lr_scheduler_type=kind,
        lr_scheduler_kwargs=tuple(kwargs.items()),
        **given,  # type: ignore[arg-type]
    )
    for steps in (1, 7, 40):
        warmup_steps = warmup if isinstance(warmup, int) else math.ceil(steps * warmup)
        ours = [learning_rate(train, step, steps) for step in range(steps)]
        assert ours == pytest.approx(theirs(kind, kwargs, warmup_steps, steps), rel=1e-14, abs=1e-17)


def test_no_schedule_of_transformers_is_missing() -> None:
    assert {kind.value for kind in SchedulerType} == SCHEDULES.keys() | set(NEED_METRIC)
    assert SCHEDULES.keys() == SCHEDULE_KWARGS.keys() == {kind for kind, _ in KINDS}
