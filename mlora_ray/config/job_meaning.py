"""What the fields of a job mean together: its own over the defaults, and the names that share one number of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mlora_ray.config import schedule_fields
from mlora_ray.config.job_fields import LION_32BIT
from mlora_ray.types import LoraSpec, TrainSpec

RelativeSteps = Mapping[str, float | str]  # eval_steps, save_steps: a part of all steps, or "epoch"
REPLACED = (  # a job's own field of the first names replaces the second ones in the defaults
    (("warmup_ratio", "warmup_steps"), ("warmup_ratio", "warmup_steps")),
    (("lr_scheduler_type",), ("lr_scheduler_kwargs",)),
    (("eval_steps",), ("eval_strategy",)),
    (("save_steps",), ("save_strategy",)),
)
BETA2 = {"adamw": 0.999, "lion": 0.99}  # what None means


class Wrong(NamedTuple):
    """A field that does not fit the others. `below`: the part of it that does not."""

    field: str
    value: str
    allowed: str
    below: tuple[str, ...] = ()


def from_defaults(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The defaults that hold for a job with these fields of its own."""
    gone = {name for mine, theirs in REPLACED if own.keys() & mine for name in theirs}
    if own.get("max_steps", 0) > 0 or own.get("num_epochs"):
        gone |= {"max_steps", "num_epochs"}
    return {name: value for name, value in defaults.items() if name not in gone}


def wrong_together(held: dict[str, Any]) -> Iterator[Wrong]:
    if held.get("init_lora_weights") == "orthogonal":
        ranks = [("r", held.get("r", LoraSpec().r)), *(("rank_pattern", r) for _, r in held.get("rank_pattern", ()))]
        yield from [Wrong(name, str(rank), "even, for orthogonal") for name, rank in ranks if rank % 2][:1]
    if held.get("num_epochs") == 0 and held.get("max_steps", 0) <= 0:
        yield Wrong("num_epochs", "0", "above 0, or max_steps above 0")
    if held.get("layers_pattern") and not held.get("layers_to_transform"):
        yield Wrong("layers_pattern", ", ".join(held["layers_pattern"]), "left out where layers_to_transform is")
    for what in ("eval", "save"):
        steps = held.get(f"{what}_steps", getattr(TrainSpec(), f"{what}_steps"))
        if held.get(f"{what}_strategy") == "steps" and not steps:
            yield Wrong(f"{what}_steps", "0", f"above 0 where {what}_strategy is steps")
    rate = held.get("learning_rate", TrainSpec().learning_rate)
    wrong = schedule_fields.wrong_together(schedule(held), held.get("lr_scheduler_kwargs", {}), rate)
    if wrong:
        yield Wrong("lr_scheduler_kwargs", wrong[1], wrong[2], below=(wrong[0],))


def schedule(held: dict[str, Any]) -> str:
    return str(held.get("lr_scheduler_type", TrainSpec().lr_scheduler_type))


def meaning(held: dict[str, Any]) -> tuple[dict[str, Any], RelativeSteps]:
    """Fields of `LoraSpec` and `TrainSpec`, and the steps that are known only when the rows are."""
    decided, relative = dict(held), {}
    if decided.pop("max_steps", 0) > 0:
        decided |= {"max_steps": held["max_steps"], "num_epochs": 0.0}
    _warmup(decided)
    _optimizer(decided)
    if decided.get("data_seed") == decided["seed"]:
        del decided["data_seed"]
    kwargs = sorted(held.get("lr_scheduler_kwargs", {}).items())  # numbers are floats, as they are read back
    decided["lr_scheduler_kwargs"] = tuple((k, v if isinstance(v, str) else float(v)) for k, v in kwargs)
    for what in ("eval", "save"):
        name, strategy = f"{what}_steps", decided.pop(f"{what}_strategy", "steps")
        steps = decided.pop(name, None)
        if strategy == "epoch" or (strategy == "steps" and steps and steps < 1):
            relative[name] = steps if strategy == "steps" else strategy
        elif strategy == "no" or steps is not None:
            decided[name] = 0 if strategy == "no" else int(steps)
    return decided, relative


def _warmup(decided: dict[str, Any]) -> None:
    """transformers' `warmup_steps` below 1 is a ratio."""
    steps = decided.pop("warmup_steps", 0)
    if 0 < steps < 1:
        decided["warmup_ratio"] = steps
    elif steps:
        decided |= {"warmup_steps": int(steps), "warmup_ratio": 0.0}


def _optimizer(decided: dict[str, Any]) -> None:
    """What an optimizer does not read, or has by itself, is no part of the job: equal jobs have equal hashes."""
    optim = decided.get("optim", TrainSpec().optim)
    if optim in LION_32BIT:  # bitsandbytes' Lion gets the second beta of Adam from transformers
        optim = "lion"
        decided["adam_beta2"] = decided.get("adam_beta2", BETA2["adamw"])
    decided["optim"] = optim
    unread = {"sgd": ("adam_beta1", "adam_beta2", "adam_epsilon"), "lion": ("adam_epsilon",), "adamw": ()}[optim]
    for name in unread:
        decided.pop(name, None)
    if optim != "sgd" and decided.get("adam_beta2") == BETA2[optim]:
        del decided["adam_beta2"]
