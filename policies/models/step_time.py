"""How long one step of a group takes: the model that policies and the simulator share.

    t(T, n) = parts * max(floor_s, layers * layer(T / parts) + head(T / parts))
              + per_adapter_s * n + per_rank_s * sum(r_i) + per_rank_token_s * sum(T_i * r_i)

T tokens of n adapters in one step, `layer` and `head` linear between measured points. The tokens go in several equal
parts past the token budget, and where memory holds only so many open optimizer steps (`open_ranks`). The sum of ranks
is taken as n times the mean rank of a token, which it is where ranks or tokens are equal. A profile is plain data:
whoever makes a policy reads the file and hands it in.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlora_ray.types import LearnedStepTime, MemoryModel

TILE = 256.0  # tokens
Points = tuple[tuple[float, float], ...]  # (tokens of a step, seconds), tokens rising


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeModel:
    """One base on one kind of device. `assumed` names the fields that were not measured."""

    id: str
    base: str = ""
    device_type: str = ""
    layers: int = 1
    layer_points: Points  # of one layer
    head_points: Points = ()  # of embedding, head and loss
    floor_s: float = 0.0
    per_adapter_s: float = 0.0
    per_rank_s: float = 0.0
    per_rank_token_s: float = 0.0
    token_budget: int = 8192
    open_ranks: float = 0.0  # sum of the ranks of the optimizer steps that memory holds open at a time; 0: no bound
    device_bytes: int = 0  # 0: unknown
    base_bytes: int = 0
    memory: MemoryModel | None = None
    assumed: tuple[str, ...] = ()
    source: str = ""
    _knots: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _lines: tuple[tuple[float, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        knots, lines = _pieces(self)
        object.__setattr__(self, "_knots", knots)
        object.__setattr__(self, "_lines", lines)

    def step_s(self, tokens: float, num_adapters: int = 1, rank_tokens: float = 0.0) -> float:
        """Seconds of one step. `rank_tokens` is the sum of tokens * lora_rank over the adapters."""
        parts = 1 if tokens <= self.token_budget else math.ceil(tokens / self.token_budget)
        ranks = num_adapters * rank_tokens / tokens if rank_tokens else 0.0
        if self.open_ranks and ranks > self.open_ranks:
            at_once = max(1, int(self.open_ranks * num_adapters / ranks))
            parts = max(parts, math.ceil(num_adapters / at_once))
        at = tokens / parts
        start, slope = self._lines[bisect_right(self._knots, at)]
        base_s = start + slope * at
        if base_s < self.floor_s:
            base_s = self.floor_s
        own_s = self.per_adapter_s * num_adapters + self.per_rank_s * ranks + self.per_rank_token_s * rank_tokens
        return parts * base_s + own_s

    def solo_tokens_s(self, step_tokens: float, lora_rank: int = 0) -> float:
        """Tokens per second of an adapter alone on a device."""
        return step_tokens / self.step_s(step_tokens, 1, step_tokens * lora_rank)

    @property
    def best_tokens_s(self) -> float:
        """No mix of adapters goes faster: the best T / t(T), without the costs of an adapter.

        On a linear piece T / t(T) has no maximum inside, so the knots, the end of the floor and the budget decide.
        """
        ends = {*self._knots, float(self.token_budget)}
        ends |= {(self.floor_s - start) / slope for start, slope in self._lines if slope > 0}
        return max(at / self._base_s(at) for at in ends if 0 < at <= self.token_budget)

    def _base_s(self, tokens: float) -> float:
        start, slope = self._lines[bisect_right(self._knots, tokens)]
        return max(self.floor_s, start + slope * tokens)


class StepTimes:
    """The models of a cluster, by base and device type; unknown pairs get the default."""

    def __init__(self, models: Iterable[StepTimeModel] = (), default: StepTimeModel | None = None) -> None:
        self._models: Mapping[tuple[str, str], StepTimeModel] = {(m.base, m.device_type): m for m in models}
        for_any = {key: model for key, model in self._models.items() if not key[1]}
        self._of_any = _of_any({**for_any, **self._models})
        self.default = default or next(iter(self._models.values()), UNKNOWN)

    def of(self, base: str, device_type: str = "") -> StepTimeModel:
        """The model of this base on this device type; for any device, the first of the base."""
        if not device_type and base in self._of_any:
            return self._of_any[base]
        return self._models.get((base, device_type)) or self._models.get((base, "")) or self.default

    def measured(self, base: str, device_type: str) -> StepTimeModel | None:
        """The model that was made for exactly these."""
        return self._models.get((base, device_type))

    def seen(self, learned: Sequence[LearnedStepTime]) -> StepTimes:
        """These, but for what hosts have shown since."""
        if not learned:
            return self
        models = {(one.base, one.device_type): self._taught(one) for one in learned}
        made = StepTimes(default=self.default)
        made._models = {**self._models, **models}
        made._of_any = {**self._of_any, **_of_any(models)}
        return made

    def _taught(self, learned: LearnedStepTime) -> StepTimeModel:
        """What was measured of the device's memory stays."""
        points = tuple((tokens, learned.start_s + learned.token_s * tokens) for tokens in (TILE, 2 * TILE))
        known = self.measured(learned.base, learned.device_type)
        return StepTimeModel(
            id=f"learned-{learned.num_rows}",
            base=learned.base,
            device_type=learned.device_type,
            layer_points=points,
            per_adapter_s=learned.adapter_s,
            token_budget=learned.token_budget,
            device_bytes=known.device_bytes if known else 0,
            base_bytes=known.base_bytes if known else 0,
            memory=known.memory if known else None,
        )

    @property
    def all(self) -> tuple[StepTimeModel, ...]:
        return tuple(self._models.values()) or (self.default,)

    @property
    def id(self) -> str:
        return "+".join(sorted({m.id for m in self.all}))


def _of_any(models: Mapping[tuple[str, str], StepTimeModel]) -> Mapping[str, StepTimeModel]:
    """The first model of each base."""
    return {base: model for (base, _), model in reversed(tuple(models.items()))}


def _check(model: StepTimeModel) -> None:
    for name in ("id", "base", "device_type", "source", *(f"assumed[{at}]" for at in range(len(model.assumed)))):
        value = model.assumed[int(name[8:-1])] if name.startswith("assumed") else getattr(model, name)
        if not isinstance(value, str):
            raise ValueError(f"profile {model.id!r}: {name} is {value!r}, allowed is text")
    for name, points in (("layer_points", model.layer_points), ("head_points", model.head_points)):
        if not all(isinstance(p, tuple) and len(p) == 2 and all(map(_is_number, p)) for p in points):
            raise ValueError(
                f"profile {model.id!r}: {name} {points!r}: allowed are pairs of numbers, tokens and seconds"
            )
        tokens = [at for at, _ in points]
        if tokens != sorted(set(tokens)) or any(at <= 0 or s <= 0 for at, s in points):
            raise ValueError(f"profile {model.id!r}: {name} {points!r}: tokens must rise, all above zero")
    if len(model.layer_points) < 2:
        raise ValueError(f"profile {model.id!r}: layer_points needs two points, has {len(model.layer_points)}")
    for name in ("floor_s", "per_adapter_s", "per_rank_s", "per_rank_token_s", "open_ranks"):
        value = getattr(model, name)
        if not (_is_number(value) and value >= 0):
            raise ValueError(f"profile {model.id!r}: {name} is {value!r}, allowed is a number, 0 or more")
    for name in ("layers", "token_budget", "device_bytes", "base_bytes"):
        value = getattr(model, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"profile {model.id!r}: {name} is {value!r}, allowed is a whole number, 0 or more")
    if 0 < model.device_bytes <= model.base_bytes:
        raise ValueError(f"profile {model.id!r}: a device of {model.device_bytes} bytes cannot hold the base")
    if model.layers < 1 or model.token_budget < 1:
        raise ValueError(f"profile {model.id!r}: layers and token_budget must be 1 or more")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pieces(model: StepTimeModel) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Inner knots, and (value at 0, slope) of every piece of `layers * layer(T) + head(T)`; never below zero."""
    curves = [(model.layers, model.layer_points), (1, model.head_points)]
    inner = sorted({at for _, points in curves for at, _ in points[1:-1]})
    lines = []
    for left, right in zip([0.0, *inner], [*inner, math.inf], strict=True):
        middle = right - 1e-9 if right < math.inf else left + 1.0
        start = slope = 0.0
        for times, points in curves:
            if points:
                one_start, one_slope = _line_at(points, middle)
                start, slope = start + times * one_start, slope + times * one_slope
        lines.append((start, slope))
    return tuple(inner), tuple(lines)


def _line_at(points: Points, tokens: float) -> tuple[float, float]:
    """(value at 0, slope) of the piece of `points` that holds `tokens`; the ends are extended, never falling."""
    if len(points) == 1:
        return points[0][1], 0.0
    at = min(max(bisect_right([x for x, _ in points], tokens), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    slope = max(0.0, (y1 - y0) / (x1 - x0))
    return y0 - slope * x0, slope


# Where nothing was measured: a step costs its tokens, and the adapters' own part is small. Its unit cancels out
# wherever a policy compares two groups of one device.
UNKNOWN = StepTimeModel(
    id="unknown",
    layer_points=((1.0, 1e-4), (512.0, 0.0512)),
    floor_s=0.0128,
    per_adapter_s=2e-4,
    assumed=("layer_points", "floor_s", "per_adapter_s"),
)
