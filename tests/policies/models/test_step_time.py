"""The step-time model: its formula, its best rate, and profiles in files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlora_ray.config.step_time_profiles import SHIPPED, read_profile, write_profile
from mlora_ray.errors import InputError
from mlora_ray.policies.models.step_time import UNKNOWN, StepTimeModel, StepTimes

MODEL = StepTimeModel(
    id="made",
    base="b",
    device_type="d",
    layers=10,
    layer_points=((100.0, 0.001), (200.0, 0.003), (300.0, 0.004)),
    head_points=((100.0, 0.01), (300.0, 0.03)),
    floor_s=0.02,
    per_adapter_s=0.5,
    per_rank_token_s=0.001,
    token_budget=300,
)


@pytest.mark.parametrize(
    ("tokens", "base_s"),
    [
        (100, 10 * 0.001 + 0.01),
        (150, 10 * 0.002 + 0.015),
        (200, 10 * 0.003 + 0.02),
        (300, 10 * 0.004 + 0.03),
        (60, 0.02),  # the line gives 8 ms, the floor holds
        (600, 2 * (10 * 0.004 + 0.03)),  # two steps of 300
        (301, 2 * (10 * (0.001 + 50.5 * 2e-5) + 0.01 + 50.5 * 1e-4)),  # two steps of 150.5
    ],
)
def test_the_formula(tokens: float, base_s: float) -> None:
    assert MODEL.step_s(tokens, 2, 7.0) == pytest.approx(base_s + 2 * 0.5 + 7 * 0.001)


@given(st.lists(st.tuples(st.floats(1, 2000), st.integers(1, 20)), min_size=1, max_size=5))
def test_nothing_beats_the_best_rate(mix: list[tuple[float, int]]) -> None:
    for name in SHIPPED:
        model = read_profile(name)
        tokens, num = sum(t * n for t, n in mix), sum(n for _, n in mix)
        assert tokens / model.step_s(tokens, num) <= model.best_tokens_s * (1 + 1e-12)


@given(st.sampled_from(SHIPPED), st.floats(1, 8000), st.floats(1, 192), st.integers(1, 30))
def test_a_longer_step_never_takes_less(name: str, tokens: float, more: float, num: int) -> None:
    model = read_profile(name)
    assert model.step_s(tokens + more, num) >= model.step_s(tokens, num)
    assert model.step_s(tokens, num + 1) > model.step_s(tokens, num)


def test_the_shipped_h100_profile_gives_the_published_rates() -> None:
    """Tokens per second at 512 to 8,192 tokens per step, without the assumed part of the adapter."""
    model = read_profile("h100-llama-3.1-8b")
    published = {512: 9877, 1024: 11954, 2048: 12875, 4096: 13158, 8192: 13712}
    for tokens, rate in published.items():
        assert tokens / (model.step_s(tokens, 0)) == pytest.approx(rate, rel=1e-4)
    assert {"floor_s", "per_adapter_s"} <= set(model.assumed)
    assert model.best_tokens_s == pytest.approx(13712, rel=1e-4)


def test_models_by_base_and_device() -> None:
    other = dataclasses.replace(MODEL, device_type="")
    times = StepTimes([MODEL, other], default=UNKNOWN)
    assert times.of("b", "d") is MODEL
    assert times.of("b", "e") is times.of("b") is other
    assert StepTimes([MODEL], default=UNKNOWN).of("b") is MODEL, "any device: the first of its base"
    assert StepTimes([MODEL], default=UNKNOWN).of("b", "e") is UNKNOWN
    assert times.of("c") is UNKNOWN
    assert StepTimes().of("x") is UNKNOWN


def test_profiles_go_round_through_files(tmp_path: Path) -> None:
    write_profile(MODEL, str(tmp_path / "p.json"))
    assert read_profile(str(tmp_path / "p.json")) == MODEL


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "a JSON profile, or one of h100"),
        ("[]", "one JSON object"),
        ('{"id": "x", "speed": 3}', "speed"),
        ('{"id": "x"}', "layer_points"),
        ('{"id": "x", "layer_points": [[5, 1], [4, 1]]}', "tokens must rise"),
        ('{"id": "x", "layer_points": [[5, 1]]}', "two points"),
        ('{"id": "x", "layer_points": [[5, 1], [6, 1]], "floor_s": -1}', "floor_s is -1"),
        ('{"id": "x", "layer_points": [[5, 1], [6, 1]], "floor_s": NaN}', "floor_s is nan"),
        ('{"id": "x", "layer_points": [[5, NaN], [6, 1]]}', "pairs of numbers"),
        ('{"id": "x", "layer_points": [[5, 1], [6, 1]], "device_bytes": "lots"}', "device_bytes is 'lots'"),
        ('{"id": "x", "layer_points": [[5, 1], [6, 1]], "device_bytes": 5, "base_bytes": 6}', "cannot hold the base"),
        ('{"id": "x", "layer_points": [[5, 1], [6, 1]], "assumed": [1]}', r"assumed\[0\] is 1"),
        ('{"id": 5, "layer_points": [[5, 1], [6, 1]]}', "id is 5"),
    ],
)
def test_bad_profiles_say_what_is_allowed(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "p.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=why):
        read_profile(str(tmp_path / "p.json"))
