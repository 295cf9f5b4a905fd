"""Who would share one host, and whether everybody on it would still be in time."""

from __future__ import annotations

import math

from mlora_ray.policies.compatibility import why_not, why_not_from_scratch
from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.policies.spot.deadline_slack import Slack, SpotSettings
from mlora_ray.types import HostView

CLOSE = 1e-9


def need_of(job: Slack, settings: SpotSettings) -> float:
    """The share of its speed alone that a job asks of a shared device, 0 to 1.

    C / (R - kept) for a deadline, where `kept` is the slack that a change to an on-demand machine takes and half of the
    reserve. What has no deadline asks for `soft_speed` at most.
    """
    kept_s = settings.fallback_s + settings.margin_s + settings.reserve_s / 2
    need = min(1.0, job.left_s / max(CLOSE, job.left_s + max(0.0, job.slack_s - kept_s)))
    return need if job.is_firm else min(need, settings.soft_speed)


class SharedHost:
    """One host and the jobs that would be on it. A host that is still to be asked for has no id."""

    __slots__ = (
        "_alone_s",
        "_free_bytes",
        "_model",
        "_rank_tokens",
        "_step_s",
        "_tokens",
        "host",
        "is_alive",
        "members",
    )

    def __init__(self, host: HostView, model: StepTimeModel, is_alive: bool) -> None:
        """`is_alive`: it runs already."""
        self.host, self._model, self.is_alive = host, model, is_alive
        self.members: list[tuple[Slack, float]] = []  # (job, the speed it needs)
        self._free_bytes = host.free_bytes or math.inf  # those that leave free theirs from the next decision on
        self._tokens = self._rank_tokens = self._alone_s = self._step_s = 0.0

    def add(self, job: Slack, need: float) -> None:
        self._step_s = self.step_s_with(job)
        self._tokens += job.adapter.step_tokens
        self._rank_tokens += job.adapter.step_tokens * job.adapter.lora_rank
        self._alone_s += job.alone_step_s
        self.members.append((job, need))
        if not self.has(job):
            self._free_bytes -= job.adapter.state_bytes

    def has(self, job: Slack) -> bool:
        """Whether it is there already."""
        return self.host.id == job.adapter.host

    def fits(self, job: Slack) -> bool:
        """Base, device, memory, and numerics where it has shown them."""
        if not self.has(job) and job.adapter.state_bytes > self._free_bytes:
            return False
        why = why_not if self.is_alive else why_not_from_scratch
        return not why(job.adapter, self.host)

    def step_s_with(self, job: Slack) -> float:
        """Seconds of a step with it. Alone: as long as its own speed says."""
        if not self.members:
            return job.alone_step_s
        tokens = self._tokens + job.adapter.step_tokens
        ranked = self._rank_tokens + job.adapter.step_tokens * job.adapter.lora_rank
        return self._model.step_s(tokens, len(self.members) + 1, ranked)

    def keeps_pace(self, job: Slack) -> bool:
        """Whether those who are on it still get what they need beside this one."""
        step_s = self.step_s_with(job)
        return all(one.alone_step_s >= need * step_s - CLOSE for one, need in self.members)

    def speed(self, job: Slack) -> float:
        """Of its speed alone."""
        return job.alone_step_s / self.step_s_with(job)

    def gain(self, job: Slack) -> float:
        """Seconds of work alone that the host does more a second with it: 1 on an empty one."""
        now = self._alone_s / self._step_s if self.members else 0.0
        return (self._alone_s + job.alone_step_s) / self.step_s_with(job) - now
