"""Where the memory model of a profile is used: the engine's plan, admission, the settings file, a host's settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mlora_ray.config.cluster_settings import read_settings
from mlora_ray.config.step_time_profiles import read_profile, write_profile
from mlora_ray.control.hosts.launcher import host_settings
from mlora_ray.engine.adapter_layout import build_layout
from mlora_ray.engine.gradient_buffers import open_step_bytes
from mlora_ray.engine.memory_budget import ROW_TOKENS, costs_of, plan_budget
from mlora_ray.errors import InputError, JobError, MloraError
from mlora_ray.policies.models.step_time import UNKNOWN, StepTimeModel
from mlora_ray.types import BaseSpec, HostSettings, LoraSpec, MemoryModel, TrainSpec, serialization
from tests.engine.jobs import make_engine, make_job, random_rows
from tests.engine.models import as_base, stock_model

MIB, GIB = 1 << 20, 1 << 30
BASE = BaseSpec(name="tiny-llama", path="/nowhere")
MEASURED = MemoryModel(base=BASE.id, fixed_bytes=400 * MIB, token_bytes=0.1 * MIB, score_bytes=100.0)
STEPS = StepTimeModel(id="x", base=BASE.id, device_type="cpu", layer_points=((1.0, 1.0), (2.0, 2.0)), memory=MEASURED)


def test_a_profile_keeps_its_memory_model(tmp_path: Path) -> None:
    write_profile(STEPS, str(tmp_path / "p.json"))
    assert read_profile(str(tmp_path / "p.json")) == STEPS
    assert read_profile("h100-llama-3.1-8b").memory is None  # written before there was one
    (tmp_path / "p.json").write_text('{"id": "x", "layer_points": [[1, 1], [2, 2]], "memory": {"size": 1}}')
    with pytest.raises(InputError, match="unexpected keyword argument 'size'"):
        read_profile(str(tmp_path / "p.json"))


def test_the_plan_is_made_of_measured_bytes() -> None:
    """The same limit buys longer rows and more adapters than the bound does."""
    base = as_base(stock_model("Llama"))
    costs = costs_of(base, MEASURED)
    assert costs.token_bytes == MEASURED.token_bytes + MEASURED.score_bytes * base.position_limit
    limit = MEASURED.fixed_bytes + base.num_bytes + int(ROW_TOKENS * costs.token_bytes) * 3 + 4
    plan = plan_budget(base, limit, memory=MEASURED)
    assert plan.token_budget == ROW_TOKENS
    assert plan.process_bytes == MEASURED.fixed_bytes
    assert plan.activation_bytes == int(ROW_TOKENS * costs.token_bytes)
    parts = plan.base_bytes + plan.process_bytes + plan.activation_bytes + plan.scratch_bytes + plan.adapter_bytes
    assert parts == limit
    dear = dataclasses.replace(MEASURED, token_bytes=3 * MEASURED.token_bytes)
    assert plan_budget(base, limit, memory=dear).token_budget == ROW_TOKENS // 4
    with pytest.raises(MloraError, match="too small"):
        plan_budget(base, MEASURED.fixed_bytes, memory=MEASURED)


def test_a_job_that_would_not_fit_alone_is_refused() -> None:
    base = as_base(stock_model("Llama"))
    spec = make_job("long", LoraSpec(r=4), TrainSpec(max_steps=1, num_epochs=0, batch_size=1))
    layout = build_layout(spec.lora, base.groups)
    own = 3 * 4 * layout.size + open_step_bytes(layout, base.dtype)
    model = dataclasses.replace(MEASURED, token_bytes=20.0 * MIB, score_bytes=0.0)
    limit = model.peak_bytes(base.num_bytes, 100, 100, own)
    settings = {"memory_limit_bytes": limit, "token_budget": 64, "memory": model}
    engine = make_engine(base, **settings)  # type: ignore[arg-type]
    engine.admit(spec, random_rows(0, 2, 100, 100, 300))
    longer = dataclasses.replace(spec, name="longer")
    with pytest.raises(JobError, match=r"'longer' does not fit into memory alone: with its longest row of 101 tokens"):
        engine.admit(longer, random_rows(0, 2, 101, 101, 300))
    roomy = make_engine(base, **settings | {"memory_limit_bytes": limit + 20 * MIB})  # type: ignore[arg-type]
    roomy.admit(longer, random_rows(0, 2, 101, 101, 300))


def test_a_host_is_started_with_the_model_of_its_base_and_device(tmp_path: Path) -> None:
    write_profile(STEPS, str(tmp_path / "p.json"))
    (tmp_path / "s.yaml").write_text("base_profiles: [p.json]\nhost_types: [{name: a}, {name: b, device: cuda}]")
    ours = read_settings(str(tmp_path / "s.yaml"), {})
    first, second = ours.host_types
    settings = host_settings(ours, "a-1", first, BASE)
    assert settings.memory == MEASURED
    assert serialization.loads(HostSettings, serialization.dumps(settings)) == settings
    assert host_settings(ours, "b-1", second, BASE).memory is None
    other = dataclasses.replace(BASE, dtype="float32")
    assert host_settings(ours, "a-1", first, other).memory is None
    assert ours.step_times.of(STEPS.base, "cpu") == STEPS
    assert ours.step_times.of("other", "cpu") == UNKNOWN


def test_profiles_that_cannot_be_used_are_named_with_their_line(tmp_path: Path) -> None:
    write_profile(STEPS, str(tmp_path / "p.json"))
    names = ["missing.json", "p.json", "p.json"]
    items = "".join(f"  - {name}\n" for name in names)
    (tmp_path / "s.yaml").write_text(f"base_profiles:\n{items}")
    with pytest.raises(InputError) as caught:
        read_settings(str(tmp_path / "s.yaml"), {})
    said = [(m.line, m.field, m.value) for m in caught.value.mistakes]
    assert said == [(2 + at, f"base_profiles[{at}]", names[at]) for at in (0, 2)]
    assert "No such file" in caught.value.mistakes[0].allowed
    assert "one profile a base and device" in caught.value.mistakes[1].allowed
