"""What the control database answers with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mlora_ray.types import STORAGE_FAILURE, HostSettings, JobSpec, JobState


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

    @property
    def is_unsaved(self) -> bool:
        """It failed because storage did, see `FailureReport.is_unsaved`."""
        return self.state is JobState.FAILED and self.error.startswith(STORAGE_FAILURE)


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


class Reassignment(NamedTuple):
    """A change of hands: the job goes from `epoch` to `epoch + 1`."""

    job: str
    epoch: int
    state: JobState
    host: str = ""
