"""Why a job waits or runs where it does, and until when: sentences for a person, facts for a program."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlora_ray.display.numbers import count, show_rate, show_seconds
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.live_forecast import Expected, look_ahead
from mlora_ray.types import AdapterView, JobState
from mlora_ray.types.records import Event
from mlora_ray.types.service import PolicySnapshot
from mlora_ray.types.status import JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAMED = 3
MOVES = ("placed", "moving", "requeued", "released", "paused")  # events that say how it came to be where it is


def explain(
    job: JobStatus, situation: PolicySnapshot, events: Sequence[Event], step_times: StepTimes
) -> dict[str, Any]:
    """`why`: sentences, in order. Beside it what they are made of. Raises ValueError for a policy that is not here."""
    view = situation.view
    expected: Mapping[str, Expected] = {}
    if not job.state.is_final and job.state is not JobState.PAUSED:
        policy = load_policy(situation.policy, step_times)
        expected = look_ahead(view, policy, situation.policy_state, step_times)
    mine = expected.get(job.name)
    waiting = [a for a in view.adapters if a.state is JobState.QUEUED]
    earlier = _earlier(job.name, expected, waiting) if job.state is JobState.QUEUED else []
    sentences = [_where(job, view.adapters), *_since(events, view.now_s), *_queue(job, earlier, len(waiting))]
    sentences += _until(job, mine, view.now_s, situation.policy)
    return {
        "job": job.name,
        "state": str(job.state),
        "host": job.host,
        "policy": situation.policy,
        "why": sentences,
        "waits_for": earlier,
        "expected_host": mine.host if mine else "",
        "expected_start_s": mine.start_s if mine else None,
        "expected_finish_s": mine.finish_s if mine else None,
        "last_event": asdict(events[-1]) if events else None,
    }


def _where(job: JobStatus, adapters: Iterable[AdapterView]) -> str:
    steps = f"step {job.step:,} of {job.total_steps:,}"
    if job.state is JobState.QUEUED:
        return f"{job.name} waits, at {steps}: {job.note or 'no host has taken it yet'}."
    if job.state is JobState.PAUSED:
        return f"{job.name} is paused at {steps}; `mlora-ray resume {job.name}` lets it go on."
    if job.state.is_final:
        return f"{job.name} is {job.state} at {steps}{f': {job.error}' if job.error else ''}."
    others = sum(a.host == job.host and a.id != job.name for a in adapters)
    beside = f"beside {count(others, 'other')}" if others else "alone"
    rate = f", {show_rate(job.tokens_per_s)} tokens/s" if job.tokens_per_s else ""
    doing = {JobState.MIGRATING: "is on its way to", JobState.PLACED: "starts on"}.get(job.state, "trains on")
    return f"{job.name} {doing} {job.host} {beside}: {steps}{rate}."


def _since(events: Sequence[Event], now_s: float) -> list[str]:
    """What brought it where it is."""
    last = next((e for e in reversed(events) if e.kind in MOVES), None)
    if last is None:
        return []
    detail = f" ({last.detail})" if last.detail else ""
    on = f" on {last.host}" if last.host else ""
    return [f"Last change: {last.kind}{on} {show_seconds(max(0.0, now_s - last.at_s))} ago{detail}."]


def _earlier(name: str, expected: Mapping[str, Expected], waiting: Iterable[AdapterView]) -> list[str]:
    """Who waits too and is expected to start before it, first to start first."""
    until_s = expected[name].start_s if name in expected else float("inf")
    found = [(expected[a.id].start_s, a.id) for a in waiting if a.id in expected and a.id != name]
    return [other for start_s, other in sorted(found) if start_s < until_s]


def _queue(job: JobStatus, earlier: Sequence[str], num_waiting: int) -> list[str]:
    if job.state is not JobState.QUEUED:
        return []
    if not earlier:
        return [f"It is the next to start of {count(num_waiting, 'job')} that wait."]
    named = ", ".join(earlier[:MAX_NAMED]) + (" …" if len(earlier) > MAX_NAMED else "")
    many = "is" if len(earlier) == 1 else "are"
    return [f"{count(len(earlier), 'waiting job')} {many} expected to start before it: {named}."]


def _until(job: JobStatus, mine: Expected | None, now_s: float, policy: str) -> list[str]:
    if job.state.is_final or job.state is JobState.PAUSED:
        return []
    if mine is None:
        return [f"Under {policy}, no host there is, or that is on its way, will take it."]
    end = f"end in {show_seconds(mine.finish_s - now_s)}, at {_clock(mine.finish_s)}"
    if job.state is not JobState.QUEUED:
        return [f"Under {policy}, if nobody else comes, it is expected to {end}."]
    start = f"start in {show_seconds(max(0.0, mine.start_s - now_s))} on {mine.host}"
    return [f"Under {policy}, if nobody else comes, it is expected to {start} and to {end}."]


def _clock(at_s: float) -> str:
    return time.strftime("%H:%M" if at_s - time.time() < 20 * 3600 else "%b %d %H:%M", time.localtime(at_s))
