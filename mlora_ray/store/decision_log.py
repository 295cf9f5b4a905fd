"""Asking a policy safely, and the log that replays: one JSON line for each decision that did something."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from mlora_ray.policies.contract import Refusal
from mlora_ray.types import Action, AdapterView, ClusterView, PolicyState, serialization

WHOLE_EVERY = 200  # lines

log = logging.getLogger(__name__)


class DecisionLog:
    """Appends to a local JSONL file; an empty path keeps none.

    A line holds the whole view, or what has changed in it since the line before: with 2,000 adapters a whole one is a
    megabyte.
    """

    def __init__(self, path: str, policy: str = "") -> None:
        self._path, self._policy = Path(path) if path else None, policy
        self._before: ClusterView | None = None  # of the last line
        self._since_whole = 0

    def append(
        self, view: ClusterView, state: PolicyState, actions: Sequence[Action], refused: Sequence[Refusal]
    ) -> None:
        """A decision to do nothing is not logged: it would be a line a second."""
        if self._path is None or not (actions or refused):
            return
        line: dict[str, Any] = (
            {"policy": self._policy}
            | self._said(view)
            | {
                "state": serialization.to_plain(state),
                "actions": [serialization.to_plain(a) for a in actions],
                "refused": [{"action": serialization.to_plain(r.action), "why": r.why} for r in refused],
            }
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(serialization.dumps(line) + "\n")
        self._before = view

    def _said(self, view: ClusterView) -> dict[str, Any]:
        before, self._since_whole = self._before, self._since_whole + 1
        if before is not None and self._since_whole < WHOLE_EVERY:
            changed = {a.id: a for a in _changed(before.adapters, view.adapters)}
            gone = {a.id for a in before.adapters} - {a.id for a in view.adapters}
            if _applied(before.adapters, changed, gone) == view.adapters:
                rest = dataclasses.replace(view, adapters=tuple(changed.values()))
                return {"change": serialization.to_plain(rest), "gone": sorted(gone)}
        self._since_whole = 0
        return {"view": serialization.to_plain(view)}


class Decision(NamedTuple):
    """One line of a log: what a policy saw, what it remembered, what was done, and its name (empty: not said)."""

    view: ClusterView
    state: PolicyState
    actions: list[Action]
    policy: str


def read_decisions(path: str) -> list[Decision]:
    """Every logged decision. A torn last line is left out.

    Raises ValueError for a line that is no decision, or a change to a view that is not there.
    """
    decisions: list[Decision] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            decisions.append(_decision(json.loads(line), decisions[-1].view if decisions else None))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: no decision: {error}") from error
    return decisions


def _decision(held: dict[str, Any], before: ClusterView | None) -> Decision:
    view = serialization.from_plain(ClusterView, held.get("view") or held["change"])
    if "view" not in held:
        if before is None:
            raise ValueError("a change, and no whole view before it")
        adapters = _applied(before.adapters, {a.id: a for a in view.adapters}, set(held["gone"]))
        view = dataclasses.replace(view, adapters=adapters)
    actions = [serialization.from_plain(Action, a) for a in held["actions"]]
    return Decision(view, serialization.from_plain(PolicyState, held["state"]), actions, held.get("policy", ""))


def _changed(before: Sequence[AdapterView], now: Sequence[AdapterView]) -> list[AdapterView]:
    known = {a.id: a for a in before}
    return [a for a in now if known.get(a.id) != a]


def _applied(
    before: Sequence[AdapterView], changed: Mapping[str, AdapterView], gone: Set[str]
) -> tuple[AdapterView, ...]:
    """Those of before in their order, changed where they have, and then the new ones."""
    known = {a.id for a in before}
    kept = [changed.get(a.id, a) for a in before if a.id not in gone]
    return (*kept, *(a for name, a in changed.items() if name not in known))
