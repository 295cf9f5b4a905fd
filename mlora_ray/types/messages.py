"""What placement and its hosts say to each other. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlora_ray.types.jobs import JobSpec

STORAGE_FAILURE = "storage, "  # how the error of a job begins that no attempt could save


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One optimizer step of one adapter, as it goes into metrics.jsonl."""

    job: str
    step: int  # 1-based: the number of optimizer steps taken
    data_epoch: float
    loss: float  # mean over the step's target tokens
    learning_rate: float
    grad_norm: float  # before clipping
    num_tokens: int
    num_target_tokens: int
    seconds: float  # wall time from the step's first nano-batch to its optimizer step
    eval_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Placement to host: train this job under this fencing epoch, from this bundle if there is one."""

    spec: JobSpec
    epoch: int
    bundle_uri: str = ""
    out_uri: str = ""  # where the finished adapter's files go


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReport:
    """Host to placement: these files are durable. Placement commits them if `epoch` still owns the job."""

    job: str
    epoch: int
    step: int
    bundle_uri: str
    sha256: str  # of the bundle's tensors
    steps: tuple[StepReport, ...]  # every step since the bundle before
    is_final: bool = False
    weights_sha256: str = ""  # of the exported adapter; set when final


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReport:
    """One adapter's own failure; its last good bundle stays."""

    job: str
    epoch: int
    step: int
    error: str
    is_unread: bool = False  # its rows or bundle could not be read, or found no room: it has not begun here
    is_unsaved: bool = False  # storage is at fault, not the job: no attempt to save it went through

    @property
    def reason(self) -> str:
        """The job's error from now on. It says `is_unsaved` too, for which a job's row has no column."""
        return f"{STORAGE_FAILURE}{self.error}" if self.is_unsaved else self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where an adapter stands right now, committed or not."""

    job: str
    epoch: int
    step: int
    total_steps: int
    loss: float
    num_tokens: int
    is_resident: bool
    tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStats:
    """Sums over packed rows: what least squares of their seconds on (1, tokens, steps) needs.

    `steps` of a row counts each nano-batch of an adapter's step of k as 1 / k: over a step of a group it is the number
    of adapters.
    """

    num_rows: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0  # without padding
    steps: float = 0.0
    rank_tokens: float = 0.0  # tokens * lora_rank
    tokens_tokens: float = 0.0
    tokens_steps: float = 0.0
    steps_steps: float = 0.0
    seconds_tokens: float = 0.0
    seconds_steps: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """One host's answer to one tick."""

    host: str
    base: str
    progress: tuple[Progress, ...] = ()
    bundles: tuple[BundleReport, ...] = ()
    failures: tuple[FailureReport, ...] = ()
    tokens_per_s: float = 0.0
    step_s: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    token_budget: int = 0
    warning: str = ""
    arrivals: tuple[Arrival, ...] = ()  # adapters that came as state, not as a bundle, since the answer before
    num_steps: int = 0  # optimizer steps since the host started
    num_failed_saves: int = 0
    now_s: float = 0.0  # the host's wall clock when it answered: shows skew
    stalled_s: float = 0.0  # since its training thread last came to the end of a step, a save or a wait
    row_tokens: int = 0  # tokens of a packed row at most, as chosen
    row_why: str = ""  # why so many
    rows: RowStats = RowStats()  # since the host started


class Ack(NamedTuple):
    """Placement to host: this job's bundle (or failure) of this epoch and step was handled; forget it."""

    job: str
    epoch: int
    step: int
    is_failure: bool = False


class Release(NamedTuple):
    """Placement to host: save this job at its last step boundary, report the bundle, let it go."""

    job: str
    epoch: int


class Arrival(NamedTuple):
    """Host to placement: this job came here as state; it stood still for `pause_s` seconds."""

    job: str
    epoch: int
    step: int
    pause_s: float


class MovedState(NamedTuple):
    """Host to host: an adapter at a step boundary, with every step that placement has not acknowledged."""

    job: str
    step: int
    arrays: Mapping[str, Any]  # numpy, as in a bundle
    num_tokens: int
    steps: tuple[StepReport, ...]
    left_at_s: float  # wall clock, for the length of the pause only


class CrossRequest(NamedTuple):
    """One trained adapter of a cross-evaluation: its spec and the bundle its weights are in."""

    spec: JobSpec
    bundle_uri: str


class CrossLosses(NamedTuple):
    """`loss[i][j]`: mean loss of adapter i on the evaluation rows of job j; `base_loss[j]` of the bare base."""

    loss: tuple[tuple[float, ...], ...]
    base_loss: tuple[float, ...]


class HostUsage(NamedTuple):
    """What a host has used since it started."""

    cpu_s: float
    peak_bytes: int


class Tick(NamedTuple):
    """What placement has for one host at one tick."""

    assignments: tuple[Assignment, ...] = ()
    releases: tuple[Release, ...] = ()
    acks: tuple[Ack, ...] = ()
    owned: frozenset[tuple[str, int]] | None = None  # (job, epoch): whatever else the host holds is let go, unsaved
