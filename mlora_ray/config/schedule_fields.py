"""`lr_scheduler_type` and what its `lr_scheduler_kwargs` may hold: transformers' names and meanings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from mlora_ray.config.field_types import Count, Number, Positive, Rate

Part = Annotated[Number, Field(ge=0, le=1)]


class NoKwargs(TypedDict, total=False):
    """linear, constant, constant_with_warmup."""


class CosineKwargs(TypedDict, total=False):
    num_cycles: Rate


class RestartsKwargs(TypedDict, total=False):
    num_cycles: Positive


class PolynomialKwargs(TypedDict, total=False):
    lr_end: Rate
    power: Rate


class InverseSqrtKwargs(TypedDict, total=False):
    timescale: Positive


class MinLrKwargs(TypedDict, total=False):
    num_cycles: Rate
    min_lr: Rate
    min_lr_rate: Part


class WarmupMinLrKwargs(MinLrKwargs, total=False):
    warmup_lr_rate: Part


class StableDecayKwargs(TypedDict, total=False):
    num_decay_steps: Required[Positive]
    num_stable_steps: Count
    warmup_type: Literal["linear", "cosine", "1-sqrt"]
    decay_type: Literal["linear", "cosine", "1-sqrt"]
    min_lr_ratio: Part
    num_cycles: Rate


SCHEDULE_KWARGS: dict[str, type] = {
    "linear": NoKwargs,
    "cosine": CosineKwargs,
    "cosine_with_restarts": RestartsKwargs,
    "polynomial": PolynomialKwargs,
    "constant": NoKwargs,
    "constant_with_warmup": NoKwargs,
    "inverse_sqrt": InverseSqrtKwargs,
    "cosine_with_min_lr": MinLrKwargs,
    "cosine_warmup_with_min_lr": WarmupMinLrKwargs,
    "warmup_stable_decay": StableDecayKwargs,
}
NEED_METRIC = ("reduce_lr_on_plateau", "greedy")


def schedule_type(value: object) -> object:
    if value in NEED_METRIC:
        raise ValueError(f"a schedule of steps, such as cosine: {value} follows a metric, and a resumed job could not")
    if value not in SCHEDULE_KWARGS:
        raise ValueError(f"one of {', '.join(SCHEDULE_KWARGS)}")
    return value


def wrong_together(kind: str, kwargs: dict[str, Any], learning_rate: float) -> tuple[str, str, str] | None:
    """(name, value, what it must be) of the first of the kwargs that does not fit the others or the rate."""
    if kind == "polynomial" and (end := kwargs.get("lr_end", 1e-7)) >= learning_rate:
        return "lr_end", f"{end:g}", f"below learning_rate, which is {learning_rate:g}"
    if kind in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        if ("min_lr" in kwargs) == ("min_lr_rate" in kwargs):
            return "min_lr", "", "given, or min_lr_rate: one of the two"
        if kwargs.get("min_lr", 0.0) > learning_rate or (learning_rate == 0 and "min_lr" in kwargs):
            return "min_lr", f"{kwargs['min_lr']:g}", f"at most learning_rate, which is {learning_rate:g} and above 0"
    return None
