"""What must hold in a control database at any moment; asked after every step of random tests and after chaos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from sqlalchemy import select
from sqlalchemy.orm import Session

from mlora_ray.store.database.tables import BundleRow, EventRow, HostRow, JobRow, StepRow
from mlora_ray.types import JobState

COMMITS = ("saved", "succeeded", "failed")
ENDS = {s.value.lower(): s.value for s in JobState if s.is_final}  # an event's kind, and the state it leaves


def violations(session: Session) -> list[str]:
    """A sentence for each thing that is not as it must be."""
    steps, bundles, events = _grouped(session)
    hosts = set(session.scalars(select(HostRow.id)))
    found: list[str] = []
    for job in session.scalars(select(JobRow).order_by(JobRow.place_in_file)):
        log = sorted([*events[job.name], *events[""]], key=lambda e: e.id)
        found += [f"job {job.name}: {said}" for said in _of_steps(job, steps[job.name])]
        found += [f"job {job.name}: {said}" for said in _of_bundles(job, bundles[job.name])]
        found += [f"job {job.name}: {said}" for said in _of_owner(job, log, hosts)]
        found += [f"job {job.name}: {said}" for said in _of_end(job, log)]
    return found


def _grouped(
    session: Session,
) -> tuple[Mapping[str, list[StepRow]], Mapping[str, list[BundleRow]], Mapping[str, list[EventRow]]]:
    """Steps, bundles and events by job; under no name, the events that requeued every job."""
    steps, bundles, events = defaultdict(list), defaultdict(list), defaultdict(list)
    for step in session.scalars(select(StepRow).order_by(StepRow.step)):
        steps[step.job].append(step)
    for bundle in session.scalars(select(BundleRow)):
        bundles[bundle.job].append(bundle)
    for event in session.scalars(select(EventRow).order_by(EventRow.id)):
        if event.job or event.kind == "requeued":
            events[event.job].append(event)
    return steps, bundles, events


def _of_steps(job: JobRow, steps: Sequence[StepRow]) -> Iterator[str]:
    """1 to the job's step, each once; tokens add up; no step was made under an epoch older than the step before it."""
    numbers = [s.step for s in steps]
    if numbers != list(range(1, job.step + 1)):
        yield f"its steps are {_short(numbers)}, it is at {job.step}"
    if (tokens := sum(s.num_tokens for s in steps)) != job.num_tokens:
        yield f"its steps have {tokens} tokens, it says {job.num_tokens}"
    for before, after in pairwise(steps):
        if after.epoch < before.epoch:
            yield f"step {after.step} is of epoch {after.epoch}, the one before of {before.epoch}"
    if steps and steps[-1].epoch > job.epoch:
        yield f"step {steps[-1].step} is of epoch {steps[-1].epoch}, the job at {job.epoch}"


def _of_bundles(job: JobRow, bundles: Sequence[BundleRow]) -> Iterator[str]:
    """None beyond the job's step; the newest is the job's own and is kept."""
    for bundle in bundles:
        if bundle.step > job.step or bundle.epoch > job.epoch:
            of, at = f"step {bundle.step}, epoch {bundle.epoch}", f"step {job.step}, epoch {job.epoch}"
            yield f"bundle {bundle.uri} is of {of}; it is at {at}"
    if job.step == 0:
        if job.bundle_uri:
            yield f"it is at step 0 and has a bundle {job.bundle_uri}"
    elif not any(b.uri == job.bundle_uri and b.step == job.step and b.is_kept for b in bundles):
        yield f"its bundle {job.bundle_uri!r} is not among those kept of step {job.step}"


def _of_owner(job: JobRow, log: Iterable[EventRow], hosts: set[str]) -> Iterator[str]:
    """A job on a host names it; under one epoch one host has owned it, and nobody else has committed."""
    state = JobState(job.state)
    if state.is_on_host != bool(job.host) and (state.is_on_host or state is JobState.QUEUED):
        yield f"it is {job.state} on host {job.host!r}"
    if state.is_on_host and hosts and job.host not in hosts:
        yield f"its host {job.host!r} was never launched"
    owners: dict[int, set[str]] = defaultdict(set)
    for event in log:
        if event.host and (event.epoch > 0 or event.kind in COMMITS):
            owners[event.epoch].add(event.host)
    for epoch, names in owners.items():
        if len(names) > 1:
            yield f"epoch {epoch} had several hosts: {', '.join(sorted(names))}"


def _of_end(job: JobRow, log: Iterable[EventRow]) -> Iterator[str]:
    """What has succeeded or was cancelled stays so; what has failed until it is queued again."""
    end, end_epoch = "", 0
    for event in log:
        if end == "failed" and event.kind in ("queued", "requeued"):
            end = ""
        elif end and (event.kind in (*COMMITS, *ENDS, "rolled_back") or (event.job and event.epoch > end_epoch)):
            yield f"{event.kind} (event {event.id}) after it had {end}"
        if event.kind in ENDS:
            end, end_epoch = event.kind, event.epoch
    if (ENDS[end] if end else "") != (job.state if job.state in ENDS.values() else ""):
        yield f"it is {job.state}, the events say {end or 'not ended'}"


def _short(numbers: Sequence[int]) -> str:
    return str(list(numbers)) if len(numbers) <= 8 else f"{list(numbers[:4])}...{list(numbers[-4:])}"
