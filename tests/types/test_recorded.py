"""Text of earlier versions is read to the facts it was written from, and what is written now is what was.

`recorded/` is of a version whose dataclasses all carried their class name under `type`: `decisions.jsonl` by the log,
`job_spec.json` out of the control database, the others by `serialization.dumps`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from mlora_ray.store.decision_log import read_decisions
from mlora_ray.types import (
    Action,
    AdapterView,
    BaseSpec,
    ClusterView,
    DrainHost,
    HostSettings,
    HostType,
    HostView,
    JobSpec,
    JobState,
    LaunchHost,
    LearnedStepTime,
    LoraSpec,
    MemoryModel,
    Migrate,
    Pause,
    Place,
    PolicyState,
    RowsRef,
    SetGroup,
    TrainSpec,
    serialization,
)

RECORDED = Path(__file__).parent / "recorded"

BASE = BaseSpec(name="tiny-llama", path="/bases/tiny", dtype="float32")
ROWS = RowsRef(
    uri="/runs/.mlora/data/é.rows",
    sha256="0" * 64,
    source="zoë.jsonl",
    num_rows=4,
    num_tokens=32,
    num_target_tokens=16,
    num_truncated=0,
    max_row_tokens=8,
)
SPEC = JobSpec(
    name="a",
    base=BASE,
    lora=LoraSpec(r=4, lora_alpha=0.1, layers_to_transform=(0, 3), rank_pattern=(("q_proj", 2), ("v_proj", 16))),
    train=TrainSpec(max_steps=10, learning_rate=1e-05, weight_decay=1 / 3),
    train_rows=ROWS,
    eval_rows=dataclasses.replace(ROWS, sha256="1" * 64),
    total_steps=10,
    deadline_at_s=1773500966.1234567,
)
HOST = HostSettings(
    id="h0",
    base=BASE,
    bundle_root="s3://bucket/.mlora/bundles",
    page_dir="",
    labels=(("zone", "a"), ("kind", "big")),
    memory=MemoryModel(base="tiny-llama:float32", fixed_bytes=10**9, token_bytes=1e16, score_bytes=5e-324),
)
ACTIONS: tuple[Action, ...] = (
    Place(adapter="a", host="h0", epoch=1, shards=("h1", "h2")),
    Pause(adapter="b", epoch=2),
    Migrate(adapter="c", host="h1", epoch=3),
    SetGroup(host="h0", group=("a", "c")),
    LaunchHost(base="tiny-llama:float32", device_type="cpu", is_spot=True, zone="z", host_type="t"),
    DrainHost(host="h2"),
)
WAITING = AdapterView(
    id="a",
    base="tiny-llama:float32",
    epoch=1,
    state=JobState.QUEUED,
    lora_rank=4,
    step_tokens=700.1,
    tokens_done=0,
    tokens_total=None,
    submitted_at_s=1773500966.1234567,
    state_bytes=0,
    solo_tokens_s=math.inf,
)
RUNNING = dataclasses.replace(
    WAITING, id="b", state=JobState.TRAINING, host="h0", tokens_done=9, tokens_total=10**15, deadline_at_s=2e9, width=2
)
VIEW = ClusterView(
    now_s=1773500967.0,
    hosts=(
        HostView(id="h0", base="tiny-llama:float32", device_type="cpu", group=("b",), step_s=0.1, leaves_at_s=1e-5),
        HostView(id="h1", base="tiny-llama:float32", device_type="cpu", state="draining", tokens_per_s=-0.0),
    ),
    adapters=(WAITING, RUNNING),
    pending_hosts=(HostView(id="h2", base="tiny-llama:float32", device_type="cuda", is_spot=True),),
    prices=(("t", 0.31), ("u", 1e22)),
    host_types=(HostType(name="t", labels=(("zone", "a"),), price_per_hour=0.31),),
    step_times=(
        LearnedStepTime(
            base="tiny-llama:float32",
            device_type="cpu",
            start_s=0.0128,
            token_s=1e-4,
            adapter_s=2e-4,
            token_budget=4096,
            drift=-math.inf,
            num_rows=30,
        ),
    ),
)
NEXT = dataclasses.replace(VIEW, now_s=1773500968.5, adapters=(dataclasses.replace(RUNNING, tokens_done=10),))
STATE = PolicyState(items=(("served:é", 1.5), ("left", 7.0)))


def test_a_decision_log() -> None:
    first, second = read_decisions(str(RECORDED / "decisions.jsonl"))
    assert (first.view, first.state, first.actions, first.policy) == (VIEW, STATE, list(ACTIONS[:3]), "fifo")
    assert (second.view, second.state, second.actions) == (NEXT, PolicyState(), list(ACTIONS[3:]))
    assert math.copysign(1.0, first.view.hosts[1].tokens_per_s) == -1.0


def test_a_job_and_a_host_as_in_the_database() -> None:
    assert serialization.loads(JobSpec, (RECORDED / "job_spec.json").read_text(encoding="utf-8")) == SPEC
    assert serialization.loads(HostSettings, (RECORDED / "host_settings.json").read_text(encoding="utf-8")) == HOST


def test_each_action() -> None:
    lines = (RECORDED / "actions.jsonl").read_text(encoding="utf-8").splitlines()
    assert tuple(serialization.loads(Action, line) for line in lines) == ACTIONS


def kept(now: Any, then: Any) -> Any:
    """`now` without fields that are newer than `then`, and with the class names that dataclasses inside had."""
    if isinstance(then, dict):
        return {key: then[key] if key == "type" else kept(now[key], then[key]) for key in then}
    if isinstance(then, list):
        return [kept(*pair) for pair in zip(now, then, strict=True)]
    return now


def test_what_is_written_is_what_was_but_for_inner_class_names_and_new_fields() -> None:
    whole = json.loads((RECORDED / "decisions.jsonl").read_text(encoding="utf-8").splitlines()[0])["view"]
    job = json.loads((RECORDED / "job_spec.json").read_text(encoding="utf-8"))
    host = json.loads((RECORDED / "host_settings.json").read_text(encoding="utf-8"))
    for then, fact in ((job, SPEC), (host, HOST), (whole, VIEW)):
        now = json.loads(serialization.dumps(fact))
        assert now["type"] == then["type"]
        assert kept(now, then) == then
    lines = (RECORDED / "actions.jsonl").read_text(encoding="utf-8").splitlines()
    for line, action in zip(lines, ACTIONS, strict=True):
        now = json.loads(serialization.dumps(action))
        assert now["type"] == type(action).__name__
        assert kept(now, json.loads(line)) == json.loads(line)
