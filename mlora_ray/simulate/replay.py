"""A live decision log again: the same policy must answer the same; another one shows what it would have done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from mlora_ray.config.step_time_profiles import read_profile
from mlora_ray.control.jobs.policy_guard import safe_decide
from mlora_ray.errors import InputError, Mistake
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import UNKNOWN, StepTimes
from mlora_ray.store.decision_log import read_decisions
from mlora_ray.types import Action
from mlora_ray.types.serialization import dumps, to_plain

MAX_SHOWN = 20
EXIT_DIFFERENT = 4


class DecisionDifference(NamedTuple):
    """One decision that differs; `number` is its line in the log, from 1."""

    number: int
    now_s: float
    logged: tuple[Action, ...]
    replayed: tuple[Action, ...]


def run_replay(log: str, policy: str, profiles: Sequence[str], as_json: bool) -> int:
    """Print what came of it. 0: identical, 4: not. Raises InputError."""
    num, found = replay(log, policy, StepTimes(map(read_profile, profiles), default=UNKNOWN))
    if as_json:
        differences = [
            {
                "decision": one.number,
                "now_s": one.now_s,
                "logged": [to_plain(action) for action in one.logged],
                "replayed": [to_plain(action) for action in one.replayed],
            }
            for one in found
        ]
        print(json.dumps({"policy": policy, "decisions": num, "different": len(found), "differences": differences}))
    else:
        print("\n".join(describe(num, found, policy or "the log's own policy")))
    return EXIT_DIFFERENT if found else 0


def replay(log: str, policy: str = "", step_times: StepTimes | None = None) -> tuple[int, list[DecisionDifference]]:
    """(decisions in the log, those where `policy`, or each line's own, answers otherwise).

    As live, first-come decides where a policy raises or is refused. Raises InputError for a log that is none.
    """
    try:
        decisions = read_decisions(log)
        made = {name: load_policy(name, step_times) for name in {policy or d.policy for d in decisions}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        allowed = f"a decision log, and its policy one that can be loaded: {error}"
        raise InputError([Mistake(file=log, field="replay", value=policy, allowed=allowed)]) from error
    found = []
    for number, one in enumerate(decisions, start=1):
        answered, _, _ = safe_decide(made[policy or one.policy], one.view, one.state)
        if answered != one.actions:
            found.append(DecisionDifference(number, one.view.now_s, tuple(one.actions), tuple(answered)))
    return len(decisions), found


def describe(num: int, found: list[DecisionDifference], policy: str) -> list[str]:
    """Lines for a person."""
    lines = [f"{num} decisions, {num - len(found)} identical under {policy}, {len(found)} different"]
    for one in found[:MAX_SHOWN]:
        lines.append(f"decision {one.number}:")
        lines += [f"  - {dumps(action)}" for action in one.logged if action not in one.replayed]
        lines += [f"  + {dumps(action)}" for action in one.replayed if action not in one.logged]
    if len(found) > MAX_SHOWN:
        lines.append(f"and {len(found) - MAX_SHOWN} more")
    return lines
