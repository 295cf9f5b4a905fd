"""The vocabulary: frozen facts that travel between rooms. Standard library only.

Words are those of docs/architecture.md section 1. Field names of `LoraSpec` and `TrainSpec` are
PEFT's and TRL's own, so a job file reads like the two configs a user already knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class JobState(StrEnum):
    QUEUED = "QUEUED"
    PLACED = "PLACED"
    TRAINING = "TRAINING"
    PAUSED = "PAUSED"
    MIGRATING = "MIGRATING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """What is trained: PEFT's `LoraConfig` fields. An empty tuple means "no restriction"."""

    r: int = 8
    lora_alpha: float = 8.0
    lora_dropout: float = 0.0
    use_rslora: bool = False
    target_modules: tuple[str, ...] = ("all-linear",)
    layers_to_transform: tuple[int, ...] = ()
    rank_pattern: tuple[tuple[str, int], ...] = ()
    init_lora_weights: str = "kaiming"  # kaiming (PEFT's True) | gaussian | orthogonal | random (PEFT's False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """How it is trained: TRL's `SFTConfig` fields with its defaults, but LoRA's learning rate.

    Exactly one of `num_epochs` and `max_steps` is above zero.
    `eval_steps` and `save_steps` of 0 mean: only at the end.
    """

    learning_rate: float = 2e-4
    loraplus_lr_ratio: float = 1.0
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0: no clipping
    optim: str = "adamw"  # adamw | sgd | lion
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    num_epochs: float = 3.0
    max_steps: int = 0
    max_length: int = 1024
    eval_steps: int = 0
    save_steps: int = 50
    seed: int = 42
    completion_only_loss: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSpec:
    """A frozen base: where its weights are and the dtype it computes in."""

    name: str  # as the user wrote it: embedded name, directory or Hub id
    path: str  # directory with config.json and *.safetensors
    dtype: str = "bfloat16"  # bfloat16 | float32

    @property
    def id(self) -> str:
        """How hosts and policies name a base: the same weights in another dtype are another base."""
        return f"{self.name}:{self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRef:
    """Tokenised rows in storage (see `engine/rows.py`), named by the hash of their content."""

    uri: str
    sha256: str
    source: str  # the file or data set the user named
    num_rows: int
    num_tokens: int
    num_target_tokens: int
    num_truncated: int
    max_row_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One request to train an adapter. With the base it decides every bit of the result."""

    name: str
    base: BaseSpec
    lora: LoraSpec
    train: TrainSpec
    train_rows: RowsRef
    eval_rows: RowsRef | None = None
    total_steps: int
    nano_batch_tokens: int = 512  # a nano-batch holds at most this many tokens, or one row
    tenant: str = "default"
    priority: int = 0
    deadline_at_s: float | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """A host as a policy sees it."""

    id: str
    base: str
    device_type: str
    zone: str = ""
    is_spot: bool = False
    state: str = "alive"  # alive | draining | dead
    free_bytes: int = 0  # what it can still take, paging to disk included; 0: no bound
    group: tuple[str, ...] = ()
    step_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterView:
    """A job as a policy sees it."""

    id: str
    base: str
    epoch: int
    state: JobState
    lora_rank: int
    step_tokens: float
    tokens_done: int
    tokens_total: int | None
    submitted_at_s: float
    state_bytes: int  # weights and optimizer moments; 0: unknown
    host: str | None = None
    tenant: str = "default"
    priority: int = 0
    deadline_at_s: float | None = None
    solo_tokens_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Everything a policy may know. `now_s` is seconds since the Unix epoch, or virtual time."""

    now_s: float
    hosts: tuple[HostView, ...] = ()
    adapters: tuple[AdapterView, ...] = ()
    pending_hosts: tuple[HostView, ...] = ()
    prices: tuple[tuple[str, float], ...] = ()  # (device type, currency units per hour)
    profile_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    adapter: str
    host: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    adapter: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    adapter: str
    host: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetGroup:
    host: str
    group: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchHost:
    base: str
    device_type: str
    is_spot: bool = False
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainHost:
    host: str


Action = Place | Pause | Migrate | SetGroup | LaunchHost | DrainHost


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """A policy's own memory between decisions, as plain data; FIFO needs none."""

    items: tuple[tuple[str, float], ...] = field(default=())


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


class CrossRequest(NamedTuple):
    """One trained adapter of a cross-evaluation: its spec and the bundle its weights are in."""

    spec: JobSpec
    bundle_uri: str


class CrossLosses(NamedTuple):
    """`loss[i][j]`: mean loss of adapter i on the evaluation rows of job j; `base_loss[j]` of the bare base."""

    loss: tuple[tuple[float, ...], ...]
    base_loss: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What a host is started with. Limits of 0 mean: choose."""

    id: str
    base: BaseSpec
    bundle_root: str
    page_dir: str
    device: str = "cpu"
    threads: int = 1
    memory_limit_bytes: int = 0
    adapter_memory_bytes: int = 0
    token_budget: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """What a host says of itself once its base is loaded."""

    id: str
    base: str
    base_sha256: str
    device_type: str
    pid: int
    memory_limit_bytes: int
    base_bytes: int
    activation_bytes: int
    adapter_bytes: int
    token_budget: int
    summary: str = ""  # the memory limit and what it buys, in a sentence
    facts: tuple[tuple[str, str], ...] = ()  # of its machine: what decides the bits, see mlora_ray.machine


class HostUsage(NamedTuple):
    """What a host has used since it started."""

    cpu_s: float
    peak_bytes: int


class Tick(NamedTuple):
    """What placement has for one host at one tick."""

    assignments: tuple[Assignment, ...] = ()
    releases: tuple[Release, ...] = ()
    acks: tuple[Ack, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """One job right now. `loss` is NaN before its first step."""

    name: str
    state: JobState
    step: int  # the newest known, committed or not
    total_steps: int
    loss: float = float("nan")
    num_tokens: int = 0
    tokens_per_s: float = 0.0
    is_resident: bool = False
    host: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The whole run right now: `done_tokens` of `total_tokens`; a limit of 0 means unknown."""

    jobs: tuple[JobStatus, ...]
    tokens_per_s: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    token_budget: int = 0  # tokens of one packed row
    elapsed_s: float = 0.0
    total_tokens: int = 0
    done_tokens: int = 0
    phase: str = "training"  # starting | training | evaluating | saving | done
    warnings: tuple[str, ...] = ()
    error: str = ""  # set when the run cannot go on

    @property
    def share_done(self) -> float:
        """0 to 1, by tokens; by jobs when the tokens are unknown."""
        if self.total_tokens > 0:
            return min(1.0, self.done_tokens / self.total_tokens)
        return sum(job.state.is_final for job in self.jobs) / max(1, len(self.jobs))

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the present rate; None when unknown."""
        left = self.total_tokens - self.done_tokens
        return max(0, left) / self.tokens_per_s if self.tokens_per_s > 0 and self.total_tokens > 0 else None

    def counts(self) -> str:
        """`3 training · 4 waiting · 1 done`."""
        done = sum(job.state is JobState.SUCCEEDED for job in self.jobs)
        failed = sum(job.state is JobState.FAILED for job in self.jobs)
        cancelled = sum(job.state is JobState.CANCELLED for job in self.jobs)
        training = sum(job.state is JobState.TRAINING for job in self.jobs)
        waiting = len(self.jobs) - done - failed - cancelled - training
        named = {"training": training, "waiting": waiting, "done": done, "failed": failed, "cancelled": cancelled}
        return " · ".join(f"{number:,} {name}" for name, number in named.items() if number)
