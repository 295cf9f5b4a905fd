"""Views for policy tests: hosts h0, h1, ... of one base, adapters with plain values."""

from __future__ import annotations

from typing import Any

from mlora_ray.policies.contract import Policy, validate_actions
from mlora_ray.policies.models.step_time import StepTimeModel, StepTimes
from mlora_ray.types import Action, AdapterView, ClusterView, HostView, JobState, Migrate, Pause, Place, PolicyState

# Below 500 tokens a step takes 50 ms whatever is in it; above, 100 us a token. An adapter costs 1 ms.
STEPS = StepTimes(
    [
        StepTimeModel(
            id="made",
            base="b",
            layer_points=((500.0, 0.05), (1000.0, 0.1)),
            floor_s=0.05,
            per_adapter_s=0.001,
            token_budget=100_000,
        )
    ]
)


def hosts(num: int, **values: Any) -> tuple[HostView, ...]:
    return tuple(HostView(**{"id": f"h{at}", "base": "b", "device_type": "", **values}) for at in range(num))


def adapter(name: str, left_s: float = 1000.0, submitted_s: float = 0.0, **values: Any) -> AdapterView:
    """One with `left_s` seconds to go alone; 500 tokens a step unless said."""
    step_tokens = float(values.pop("step_tokens", 500.0))
    solo = STEPS.default.solo_tokens_s(step_tokens)
    done = values.pop("done_s", 0.0) * solo
    plain: dict[str, Any] = {
        "id": name,
        "base": "b",
        "epoch": 1,
        "state": JobState.TRAINING if values.get("host") else JobState.QUEUED,
        "lora_rank": 8,
        "step_tokens": step_tokens,
        "tokens_done": int(done),
        "tokens_total": int(done + left_s * solo),
        "submitted_at_s": submitted_s,
        "state_bytes": 0,
        "solo_tokens_s": solo,
    }
    return AdapterView(**(plain | values))


def view(hosts_: tuple[HostView, ...], *adapters: AdapterView, now_s: float = 1000.0) -> ClusterView:
    return ClusterView(now_s=now_s, hosts=hosts_, adapters=adapters)


def decide(policy: Policy, seen: ClusterView, state: PolicyState | None = None) -> dict[str, tuple[str, ...]]:
    """Adapter -> where it is sent, () for a pause. Every action is allowed and the answer repeats itself."""
    before = state or PolicyState()
    actions, _ = policy.decide(seen, before)
    assert policy.decide(seen, before)[0] == actions
    assert validate_actions(seen, actions) == (actions, [])
    return {a.adapter: _target(a) for a in actions if isinstance(a, Place | Migrate | Pause)}


def _target(action: Action) -> tuple[str, ...]:
    return () if not isinstance(action, Place | Migrate) else (action.host, *action.shards)
