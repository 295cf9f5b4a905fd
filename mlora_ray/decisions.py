"""Asking a policy safely, and the log that replays: one JSON line for each decision that did something."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from mlora_ray import serde
from mlora_ray.policies.contract import Policy, Refusal, validate_actions
from mlora_ray.policies.fifo import Fifo
from mlora_ray.types import Action, ClusterView, PolicyState

log = logging.getLogger(__name__)


def safe_decide(
    policy: Policy, view: ClusterView, state: PolicyState
) -> tuple[list[Action], PolicyState, list[Refusal]]:
    """The policy's allowed actions. Where it raises, first-come decides this time and its state stays."""
    try:
        actions, state = policy.decide(view, state)
    except Exception as error:  # noqa: BLE001 - a user's policy must not stop the run
        log.error("policy=%s raised %s: %s; fifo decides", policy.name, type(error).__name__, error)
        actions, _ = Fifo().decide(view, state)
    allowed, refused = validate_actions(view, actions)
    for refusal in refused:
        log.warning("policy=%s refused %s: %s", policy.name, refusal.action, refusal.why)
    return allowed, state, refused


class DecisionLog:
    """Appends to a local JSONL file; an empty path keeps none."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None

    def append(
        self, view: ClusterView, state: PolicyState, actions: Sequence[Action], refused: Sequence[Refusal]
    ) -> None:
        """A decision to do nothing is not logged: it would be a line a second."""
        if self._path is None or not (actions or refused):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = {
            "view": serde.to_plain(view),
            "state": serde.to_plain(state),
            "actions": [serde.to_plain(a) for a in actions],
            "refused": [{"action": serde.to_plain(r.action), "why": r.why} for r in refused],
        }
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_decisions(path: str) -> list[tuple[ClusterView, PolicyState, list[Action]]]:
    """The (view, state before, actions) of every logged decision. A torn last line is left out."""
    decisions = []
    for line in Path(path).read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            held = json.loads(line)
            actions = [serde.from_plain(Action, a) for a in held["actions"]]
            view = serde.from_plain(ClusterView, held["view"])
            decisions.append((view, serde.from_plain(PolicyState, held["state"]), actions))
    return decisions
