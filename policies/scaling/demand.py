"""What hosts the work needs: who can serve whom, how much of a host a job keeps busy, and which hosts that leaves over.

A job's load is its work left over what one host does in `target_wait_s`: 1.0 is a host that is busy for so long. Loads
are laid into the hosts there are, each with room for 1.0; what is left over wants a host, hosts without load are spare.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from mlora_ray.policies.compatibility import why_not, why_not_from_scratch
from mlora_ray.types import AdapterView, AutoscaleSettings, ClusterView, HostType, HostView, JobState

LEAST_LOAD = 1e-3  # of a job that is all but done: it needs its host still
CLOSE = 1e-9  # floats that should be equal


class HostHistory(NamedTuple):
    """What hosts have shown: tokens/s by base and host type, and the numerics that a host type produces."""

    rates: Mapping[tuple[str, str], float]
    numerics: Mapping[str, frozenset[str]]


class Want(NamedTuple):
    """One host that is missing. Any of `types` would do."""

    base: str
    types: tuple[str, ...]
    oldest_at_s: float
    is_starving: bool = False  # no host there is, or that starts, can take its jobs
    is_extra: bool = False  # for `min_hosts` or a forecast, not for work that is there


class Fill(NamedTuple):
    """Hosts with load of jobs, those and the hosts with load of `extra`, and what is missing."""

    worked: tuple[str, ...]
    used: tuple[str, ...]
    wants: tuple[Want, ...]


def open_jobs(view: ClusterView) -> list[AdapterView]:
    """The jobs that want to train: a paused one waits for its user, a final one is done."""
    return [a for a in view.adapters if not a.state.is_final and a.state is not JobState.PAUSED]


def can_serve(host: HostView, job: AdapterView, learned: HostHistory) -> bool:
    """Whether the job can begin, or go on with equal bits, on this host."""
    if host.numerics or not job.numerics:
        return not why_not(job, host)
    return not why_not_from_scratch(job, host) and _may_produce(host.host_type, job.numerics, learned)


def fitting_types(job: AdapterView, host_types: Sequence[HostType], learned: HostHistory) -> tuple[str, ...]:
    """Names of the host types that can take the job: those known to compute its bits, else those not known yet."""
    if not job.numerics and not job.device_type:
        return open_types(host_types)
    of_device = [t.name for t in host_types if job.device_type in ("", t.device)]
    if not job.numerics:
        return tuple(of_device)
    proven = [name for name in of_device if job.numerics in learned.numerics.get(name, ())]
    return tuple(proven or [name for name in of_device if _may_produce(name, job.numerics, learned)])


def open_types(host_types: Sequence[HostType]) -> tuple[str, ...]:
    """For jobs that leave the device open: GPUs where there is such a type. What begins on a CPU has to stay on one."""
    gpus = tuple(t.name for t in host_types if t.device == "cuda")
    return gpus or tuple(t.name for t in host_types)


def why_no_host(device_type: str, base: str, host_types: Sequence[HostType], settings: AutoscaleSettings) -> str:
    """Why no host type will ever take such a job; empty where one does."""
    most = settings.max_cost_per_hour
    usable = [t for t in host_types if t.max_hosts > 0 and (most <= 0 or t.price_per_hour <= most + CLOSE)]
    if not usable:
        return f"no host type may have a host, so {base} cannot be held: host_types, max_hosts above 0"
    if device_type and all(t.device != device_type for t in usable):
        there = ", ".join(f"{t.name} ({t.device})" for t in usable)
        return f"no host type has device {device_type} for {base}; there are: {there}"
    return ""


def a_host_does(base: str, types: Iterable[str], settings: AutoscaleSettings, learned: HostHistory) -> float:
    """Tokens of this base that a host trains in `target_wait_s`; 0 where no speed was measured."""
    rates = [rate for name in types if (rate := learned.rates.get((base, name), 0.0)) > 0]
    return sum(rates) / len(rates) * settings.target_wait_s if rates else 0.0


def load_of(job: AdapterView, does: float, settings: AutoscaleSettings) -> float:
    """How much of a host the job keeps busy, 0 to 1. Without a measured speed: 1 / `jobs_per_host`."""
    if does <= 0 or job.tokens_total is None:
        return 1.0 / max(1, settings.jobs_per_host)
    return min(1.0, max(LEAST_LOAD, (job.tokens_total - job.tokens_done) / does))


class JobClass(NamedTuple):
    """Jobs of a base that the same hosts and the same host types can take."""

    serving: tuple[str, ...]
    types: tuple[str, ...]
    load: float
    num_jobs: int
    oldest_at_s: float


def groups_of(
    base: str,
    jobs: Sequence[AdapterView],
    hosts: Sequence[HostView],
    host_types: Sequence[HostType],
    settings: AutoscaleSettings,
    learned: HostHistory,
) -> list[JobClass]:
    """The jobs of one base in groups, the ones with least choice first."""
    kinds: dict[tuple[str, str], list[AdapterView]] = {}
    for job in jobs:
        kinds.setdefault((job.device_type, job.numerics), []).append(job)
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], list[AdapterView]] = {}
    for held in kinds.values():
        able = [host for host in hosts if can_serve(host, held[0], learned)]
        fitting = _alike(fitting_types(held[0], host_types, learned), able, learned)
        found.setdefault((tuple(host.id for host in able), fitting), []).extend(held)
    groups = []
    for (serving, types), held in found.items():
        does = a_host_does(base, types, settings, learned)
        load = sum(load_of(job, does, settings) for job in held)
        groups.append(JobClass(serving, types, load, len(held), min(job.submitted_at_s for job in held)))
    return sorted(groups, key=lambda g: (len(g.serving), len(g.types), g))


def _alike(types: tuple[str, ...], serving: Sequence[HostView], learned: HostHistory) -> tuple[str, ...]:
    """The types whose hosts can take over from those that serve: jobs begin on these while others start."""
    shown = {host.numerics for host in serving if host.numerics}
    alike = tuple(name for name in types if not shown.isdisjoint(learned.numerics.get(name, shown)))
    return alike if shown else types


class _Missing:
    """A host that is not there yet, with the load laid into it so far."""

    def __init__(self, group: JobClass, is_starving: bool) -> None:
        self.types, self.room = group.types, 1.0
        self.oldest_at_s, self.is_starving = group.oldest_at_s, is_starving

    def take(self, load: float) -> float:
        taken = min(load, self.room)
        self.room -= taken
        return taken


def fill(
    base: str,
    groups: Sequence[JobClass],
    hosts: Sequence[HostView],
    host_types: Sequence[HostType],
    *,
    margin: float = 1.0,
    extra: float = 0.0,
) -> Fill:
    """Lay the jobs of one base into `hosts`, in their order. `margin` scales the load; `extra` load goes anywhere."""
    room = {host.id: 1.0 for host in hosts}
    used: set[str] = set()
    missing: list[_Missing] = []
    for group in groups:
        left = min(group.load * margin, float(group.num_jobs))
        left = _lay(left, group.serving, room, used)
        has_host = bool(group.serving)
        for one in missing:
            if left > CLOSE and one.room > CLOSE and (both := tuple(t for t in one.types if t in group.types)):
                one.types, has_host = both, True
                left -= one.take(left)
        while left > CLOSE and group.types:
            missing.append(_Missing(group, not has_host))
            has_host = True
            left -= missing[-1].take(left)
    worked = tuple(host.id for host in hosts if host.id in used)
    left = _lay(extra, [host.id for host in hosts], room, used)
    for one in missing:
        left -= one.take(left)
    wants = [Want(base, one.types, one.oldest_at_s, one.is_starving) for one in missing]
    wants += [Want(base, open_types(host_types), math.inf, is_extra=True)] * math.floor(left + 0.5)
    return Fill(worked, tuple(host.id for host in hosts if host.id in used), tuple(wants))


def _lay(load: float, hosts: Collection[str], room: dict[str, float], used: set[str]) -> float:
    """Lay `load` into the hosts in order; answers what found no room."""
    for host in hosts:
        taken = min(load, room[host])
        if taken > CLOSE:
            room[host] -= taken
            load -= taken
            used.add(host)
    return load


def _may_produce(host_type: str, numerics: str, learned: HostHistory) -> bool:
    """A type that has not shown its numerics yet may turn out to have these."""
    return numerics in (shown := learned.numerics.get(host_type, frozenset())) or not shown
