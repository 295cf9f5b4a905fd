"""The moving parts of a simulated cluster: an adapter, a host, and how a group steps under each rule."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.simulate.results import SimHost, SimJob
from mlora_ray.types import AdapterView, HostView, JobState

# How a group steps: all together, all together and padded to the longest row, or one after another.
FUSED, PADDED, TURNS = "fused", "padded", "turns"


class Adapter:
    """A job as it goes. `rate` is tokens per second over all its devices since `at_s`."""

    __slots__ = (
        "at_s",
        "done",
        "epoch",
        "free_at_s",
        "hosts",
        "job",
        "lost",
        "num_moves",
        "rate",
        "ready_s",
        "seen_hosts",
        "since_s",
        "started_s",
        "version",
        "view",
    )

    def __init__(self, job: SimJob) -> None:
        self.job = job
        self.hosts: tuple[Host, ...] = ()
        self.done = self.rate = self.lost = 0.0
        self.at_s = self.since_s = self.free_at_s = job.submit_s
        self.started_s = math.inf
        self.ready_s = math.inf  # from then on it steps
        self.epoch = self.version = self.num_moves = 0
        self.seen_hosts: dict[str, None] = {}
        self.view: AdapterView | None = None

    def advance(self, now_s: float) -> None:
        """Count what was trained since `at_s`."""
        if self.rate and now_s > self.at_s:
            self.done = min(self.job.tokens, self.done + self.rate * (now_s - self.at_s))
        self.at_s = now_s

    def seen(self, now_s: float) -> AdapterView:
        """The policy's view of it. What waits does not change, so its view is kept."""
        if self.view is not None and not self.hosts:
            return self.view
        self.advance(now_s)
        job, hosts = self.job, self.hosts
        state = JobState.QUEUED if not hosts else JobState.TRAINING if now_s >= self.ready_s else JobState.PLACED
        self.view = AdapterView(
            id=job.id,
            base=job.base,
            epoch=self.epoch,
            state=state,
            lora_rank=job.lora_rank,
            step_tokens=job.step_tokens,
            tokens_done=int(self.done),
            tokens_total=None if job.declared_tokens is None else int(job.declared_tokens),
            submitted_at_s=job.submit_s,
            state_bytes=job.state_bytes,
            host=hosts[0].spec.id if hosts else None,
            tenant=job.tenant,
            priority=job.priority,
            deadline_at_s=job.deadline_s,
            solo_tokens_s=job.solo_tokens_s,
            width=job.width,
            shards=tuple(h.spec.id for h in hosts[1:]),
            row_tokens=job.row_tokens,
            device_type=job.device_type,
            numerics=job.numerics,
        )
        return self.view


class Host:
    """A device. `step_s` is the time of one step of its group; 0 while nothing steps."""

    __slots__ = (
        "alive_s",
        "allocated_s",
        "at_s",
        "busy_s",
        "free_bytes",
        "group",
        "launched_s",
        "leaves_at_s",
        "model",
        "spec",
        "state",
        "step_s",
        "tokens_s",
        "view",
    )

    def __init__(self, spec: SimHost, model: StepTimeModel, now_s: float = 0.0, state: str = "alive") -> None:
        self.spec, self.model, self.state = spec, model, state
        self.group: dict[str, Adapter] = {}
        self.step_s = self.tokens_s = self.busy_s = self.allocated_s = self.alive_s = 0.0
        self.at_s = self.launched_s = now_s
        self.leaves_at_s: float | None = None
        self.free_bytes = max(0, model.device_bytes - model.base_bytes)
        self.view: HostView | None = None

    def account(self, now_s: float) -> None:
        """Add up busy and allocated time until now."""
        spent = now_s - self.at_s
        self.at_s = now_s
        if self.state != "dead":
            self.alive_s += spent  # paid for from the launch on
            if self.group:
                self.allocated_s += spent
            if self.step_s:
                self.busy_s += spent

    def retime(self, now_s: float, rule: str) -> None:
        """The step time of those that step now."""
        stepping = [a.job for a in self.group.values() if a.ready_s <= now_s]
        self.step_s = group_step_s(self.model, stepping, rule) if stepping else 0.0
        self.tokens_s = sum(j.step_tokens for j in stepping) / self.step_s if stepping else 0.0
        self.view = None

    def seen(self) -> HostView:
        if self.view is None:
            spec = self.spec
            free = self.free_bytes - sum(a.job.state_bytes for a in self.group.values())
            self.view = HostView(
                id=spec.id,
                base=spec.base,
                device_type=spec.device_type,
                zone=spec.zone,
                is_spot=spec.is_spot,
                state=self.state,
                free_bytes=max(1, free) if self.free_bytes else 0,
                group=tuple(self.group),
                step_s=self.step_s,
                tokens_per_s=self.tokens_s,
                host_type=spec.host_type,
                numerics=spec.numerics,
                leaves_at_s=self.leaves_at_s,
            )
        return self.view


def group_step_s(model: StepTimeModel, jobs: Iterable[SimJob], rule: str) -> float:
    """Seconds in which every one of `jobs` takes one optimizer step on one device."""
    held = list(jobs)
    if rule == TURNS:
        return sum(model.step_s(j.step_tokens, 1, j.step_tokens * j.lora_rank) for j in held)
    longest = max(j.row_tokens for j in held)
    tokens = [j.rows * longest if rule == PADDED else j.step_tokens for j in held]
    rank_tokens = sum(t * j.lora_rank for t, j in zip(tokens, held, strict=True))
    return model.step_s(sum(tokens), len(held), rank_tokens)
