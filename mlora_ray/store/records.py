"""What the control database answers with, and the mistakes of a run that is not the one it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mlora_ray.errors import Mistake, MloraError
from mlora_ray.types import HostSettings, JobSpec, JobState, serialization


class DatabaseError(MloraError):
    """The control database cannot be read or written (full disk, no connection)."""


class DatabaseRefused(DatabaseError):
    """It can be read, but is not for this service; waiting changes nothing."""


class DatabaseInUse(DatabaseRefused):
    """Another service is at work on this database."""


class LeaseLost(DatabaseError):
    """Another placement service writes to this database now; nothing of ours was written."""


class BaseDiffers(MloraError):
    """Two nodes hold different weights under one base's name: their bits could not be the same."""


class Commit(StrEnum):
    """What became of a bundle's report."""

    COMMITTED = "committed"
    STALE = "stale"  # another epoch owns the job, it has ended, or its steps are there already
    GAP = "gap"  # steps are missing between the job's and the report's


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as the database has it."""

    spec: JobSpec
    state: JobState
    epoch: int
    host: str
    step: int
    bundle_uri: str
    weights_sha256: str
    error: str
    num_tokens: int
    submitted_at_s: float
    numerics: str = ""  # of the hosts it has trained on; empty: it has not begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the event log."""

    at_s: float
    kind: str
    job: str = ""
    host: str = ""
    epoch: int = 0
    detail: str = ""
    id: int = 0  # given by the database; rises


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """A host as the database has it."""

    settings: HostSettings
    actor_name: str
    state: str  # starting | alive | draining | gone
    launched_at_s: float
    node_id: str = ""
    node_ip: str = ""
    pid: int = 0
    numerics: str = ""
    why: str = ""  # it drains or is gone
    joined_at_s: float | None = None
    gone_at_s: float | None = None


class Machine(NamedTuple):
    """What of the machine decides the bits of a run."""

    device: str
    threads: int
    facts: tuple[tuple[str, str], ...] = ()  # versions, capability, kernels; empty before a host has joined


class Ownership(NamedTuple):
    """A change of hands: the job goes from `epoch` to `epoch + 1`."""

    job: str
    epoch: int
    state: JobState
    host: str = ""


def spec_differences(
    here: Sequence[JobSpec], given: Sequence[JobSpec], file: str, where: str = "the run in this directory"
) -> list[Mistake]:
    """A mistake for each field in which the jobs of `file` are not the jobs that are `here`, said to be `where`."""
    before, now = {s.name: s for s in here}, {s.name: s for s in given}
    mistakes = [_differs(file, n, "name", "", f"{where} has no such job") for n in now if n not in before]
    mistakes += [_differs(file, n, "name", "", f"missing: {where} has it") for n in before if n not in now]
    for name in sorted(set(before) & set(now)):
        old, new = serialization.flat_fields(before[name]), serialization.flat_fields(now[name])
        for key in sorted(old | new):
            is_place = key.endswith("_rows.source")  # the same rows, named from another folder
            if old.get(key) != new.get(key) and not is_place:
                allowed = f"{where} began with {old.get(key)!r}"
                mistakes.append(_differs(file, name, key, str(new.get(key)), allowed))
    return mistakes


def _differs(file: str, job: str, field: str, value: str, allowed: str) -> Mistake:
    return Mistake(file=file, field=f"jobs.{job}.{field}", value=value, allowed=allowed)
