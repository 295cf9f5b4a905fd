"""Waiting longer after each launch that failed."""

from __future__ import annotations

from mlora_ray.types.backoff import backoff_s

MAX_LOSSES = 3  # of hosts of a base in a row, without one committed bundle between them: then launching waits
FIRST_BACKOFF_S, MAX_BACKOFF_S = 5.0, 300.0


class LaunchBackoff:
    """What keeps hosts of a base from training, and how long the next launch waits for it."""

    def __init__(self) -> None:
        self._losses: dict[str, int] = {}
        self._commits_seen: dict[str, int] = {}
        self._until_s: dict[str, float] = {}
        self._why: dict[str, str] = {}

    def lost(self, base: str, why: str, commits: int, now_s: float) -> str:
        """A host was lost after so many commits. Answers why launching waits, empty where it does not."""
        is_new = commits > self._commits_seen.get(base, 0)
        losses = 1 if is_new else self._losses.get(base, 0) + 1
        self._commits_seen[base], self._losses[base], self._why[base] = commits, losses, why
        if losses < MAX_LOSSES:
            return ""
        self._wait(base, now_s, losses - MAX_LOSSES + 1)
        return f"{losses} hosts were lost with nothing trained between; the last: {why}"

    def refused(self, base: str, why: str, now_s: float) -> str:
        """A host cannot use its base. Answers why."""
        losses = self._losses.get(base, 0) + 1
        self._losses[base], self._why[base] = losses, why
        self._wait(base, now_s, losses + 1)
        return why

    def _wait(self, base: str, now_s: float, attempt: int) -> None:
        self._until_s[base] = now_s + backoff_s(attempt, FIRST_BACKOFF_S, MAX_BACKOFF_S)

    def may_launch(self, base: str, now_s: float) -> bool:
        return self._until_s.get(base, 0.0) <= now_s

    def why(self, base: str) -> str:
        return self._why.get(base, "")

    def warnings(self, now_s: float) -> tuple[str, ...]:
        waits = [(base, until_s - now_s) for base, until_s in self._until_s.items() if until_s > now_s]
        return tuple(f"no host of {base} for another {left_s:.0f} s: {self._why[base]}" for base, left_s in waits)
