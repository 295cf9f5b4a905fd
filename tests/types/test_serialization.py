"""Facts go through JSON and come back equal."""

from __future__ import annotations

import dataclasses
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlora_ray.types import (
    Action,
    AdapterView,
    ClusterView,
    DrainHost,
    HostView,
    JobSpec,
    JobState,
    LaunchHost,
    Migrate,
    Pause,
    Place,
    PolicyState,
    SetGroup,
    StepReport,
    serialization,
)
from mlora_ray.types.job_identity import spec_sha256
from tests.conftest import make_spec, make_step

text, number = st.text(max_size=5), st.floats(allow_nan=False)
hosts = st.builds(HostView, id=text, base=text, device_type=text, group=st.tuples(text), step_s=number)
adapters = st.builds(
    AdapterView,
    id=text,
    base=text,
    epoch=st.integers(0, 9),
    state=st.sampled_from(JobState),
    lora_rank=st.integers(1, 64),
    step_tokens=number,
    tokens_done=st.integers(0, 9),
    tokens_total=st.none() | st.integers(0, 9),
    submitted_at_s=number,
    state_bytes=st.integers(0, 9),
    host=st.none() | text,
    deadline_at_s=st.none() | number,
)
views = st.builds(
    ClusterView,
    now_s=number,
    hosts=st.lists(hosts, max_size=2).map(tuple),
    adapters=st.lists(adapters, max_size=2).map(tuple),
    prices=st.lists(st.tuples(text, number), max_size=2).map(tuple),
)
actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(Place, adapter=text, host=text, epoch=st.integers(0, 9)),
    st.builds(Migrate, adapter=text, host=text, epoch=st.integers(0, 9)),
    st.builds(Pause, adapter=text, epoch=st.integers(0, 9)),
    st.builds(SetGroup, host=text, group=st.lists(text).map(tuple)),
    st.builds(LaunchHost, base=text, device_type=text),
    st.builds(DrainHost, host=text),
)


@given(views)
def test_views(view: ClusterView) -> None:
    assert serialization.loads(ClusterView, serialization.dumps(view)) == view


@given(st.floats() | st.integers(-(2**53), 2**53))
def test_numbers_come_back_to_the_bit(value: float) -> None:
    again = serialization.loads(PolicyState, serialization.dumps(PolicyState(items=(("x", value),)))).items[0][1]
    assert struct.pack("d", again) == struct.pack("d", value) or (math.isnan(again) and math.isnan(value))


def test_constants_are_those_of_python() -> None:
    state = PolicyState(items=(("a", math.nan), ("b", math.inf), ("\u2028", -math.inf)))
    text = serialization.dumps(state)
    assert text == r'{"type":"PolicyState","items":[["a",NaN],["b",Infinity],["\u2028",-Infinity]]}'
    assert json.loads(text)["items"][1] == ["b", math.inf]


@given(actions)
def test_actions(action: Action) -> None:
    assert serialization.loads(Action, serialization.dumps(action)) == action


def test_specs_steps_and_states() -> None:
    spec = dataclasses.replace(make_spec("a"), eval_rows=make_spec("b").train_rows, deadline_at_s=3.5)
    spec = dataclasses.replace(spec, lora=dataclasses.replace(spec.lora, rank_pattern=(("q_proj", 2),)))
    assert serialization.loads(JobSpec, serialization.dumps(spec)) == spec
    assert serialization.loads(StepReport, serialization.dumps(make_step("a", 3))) == make_step("a", 3)
    state = PolicyState(items=(("x", 1.5),))
    assert serialization.loads(PolicyState, serialization.dumps(state)) == state


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no field colour"):
        serialization.from_plain(Place, {"adapter": "a", "host": "h", "epoch": 1, "colour": "red"})
    with pytest.raises(ValueError, match="allowed: DrainHost"):
        serialization.from_plain(Action, {"type": "Explode"})
    with pytest.raises(ValueError, match=r"^Place needs host; Place: epoch is 'two': ") as caught:
        serialization.from_plain(Place, {"adapter": "a", "epoch": "two"})
    assert "pydantic.dev" not in str(caught.value)
    spec = serialization.to_plain(make_spec("a"))
    with pytest.raises(ValueError, match=r"^JobSpec has no field lora\.rang$"):
        serialization.from_plain(JobSpec, spec | {"lora": {"rang": 4}})
    with pytest.raises(ValueError, match=r"^EOF"):
        serialization.loads(Place, '{"adapter":')


def test_a_field_of_the_wrong_type_is_not_written() -> None:
    with pytest.raises(ValueError, match="float"):
        serialization.dumps(PolicyState(items=(("a", "much"),)))  # type: ignore[arg-type]


def test_the_hash_is_of_the_job_not_of_its_place() -> None:
    spec = make_spec("a")
    moved = dataclasses.replace(spec, train_rows=dataclasses.replace(spec.train_rows, uri="/moved"), priority=3)
    placed = dataclasses.replace(spec, device_type="cuda", tenant="t")
    other = dataclasses.replace(spec, train=dataclasses.replace(spec.train, seed=1))
    assert spec_sha256(spec) == spec_sha256(moved) == spec_sha256(placed)
    assert spec_sha256(spec) != spec_sha256(other)


def test_the_hash_of_a_job_stays_what_it_was() -> None:
    """Bundles and runs of earlier versions are found by it."""
    assert spec_sha256(make_spec("a")) == "38311bda71b233494355ac935cadaa836ce4982c24d31c98044d665c9f673dc7"


def full_spec() -> JobSpec:
    """A spec in which every field that came after 0.1 is at another value than its default."""
    spec = make_spec("a")
    lora = dataclasses.replace(
        spec.lora, alpha_pattern=(("v_proj", 32.0),), exclude_modules=("q_proj",), layers_pattern=("layers",)
    )
    train = dataclasses.replace(
        spec.train,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs=(("decay_type", "linear"), ("num_decay_steps", 4.0)),
        warmup_steps=3,
        adam_beta1=0.8,
        adam_beta2=0.95,
        adam_epsilon=1e-6,
        data_seed=7,
    )
    return dataclasses.replace(spec, lora=lora, train=train)


def test_fields_that_came_later_go_through_json_and_keep_the_hash() -> None:
    spec = full_spec()
    read = serialization.loads(JobSpec, serialization.dumps(spec))
    assert read == spec
    assert spec_sha256(read) == spec_sha256(spec)


def test_a_field_that_came_later_is_no_part_of_a_job_that_does_not_use_it() -> None:
    """The hash of version 0.1, before any of them was there; each of them, where it is used, is another job."""
    plain, full = make_spec("a"), full_spec()
    assert spec_sha256(plain) == "38311bda71b233494355ac935cadaa836ce4982c24d31c98044d665c9f673dc7"
    hashes = {spec_sha256(plain)}
    later = [
        (part, f.name) for part in ("lora", "train") for f in dataclasses.fields(getattr(plain, part)) if f.metadata
    ]
    for part, name in later:
        value = getattr(getattr(full, part), name)
        changed = dataclasses.replace(getattr(plain, part), **{name: value})
        assert value != getattr(getattr(plain, part), name), name
        hashes.add(spec_sha256(dataclasses.replace(plain, **{part: changed})))
    assert len(hashes) == 1 + len(later)
