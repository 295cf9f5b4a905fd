"""The vocabulary: frozen facts that travel between rooms. Standard library only.

Words are those of docs/architecture.md section 1. Field names of `LoraSpec` and `TrainSpec` are
PEFT's and TRL's own, so a job file reads like the two configs a user already knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


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
    device_type: str = ""  # cpu | cuda: only on hosts of this device; empty: any


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """What `mlora-ray profile` measured of a process that trains on `base`."""

    base: str  # BaseSpec.id
    fixed_bytes: int  # the process and what a row of any length needs, without the base's weights
    token_bytes: float  # of a packed token, forward and backward
    score_bytes: float = 0.0  # of a packed token and each token of its sequence, where attention keeps its scores
    state_share: float = 1.0  # of the bytes of states and open steps, what the peak grows by

    def peak_bytes(self, base_bytes: int, row_tokens: int, kept_length: int, own_bytes: int) -> int:
        """Largest resident size with rows of `row_tokens` tokens in sequences of `kept_length`.

        `own_bytes`: states of the resident adapters, and gradients and compute copies of the open steps.
        """
        rows = row_tokens * (self.token_bytes + self.score_bytes * kept_length)
        return int(self.fixed_bytes + base_bytes + rows + self.state_share * own_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostType:
    """A kind of host that can be launched: what one actor asks of Ray, what it costs, how many there may be."""

    name: str
    device: str = "cpu"  # cpu | cuda
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    labels: tuple[tuple[str, str], ...] = ()  # Ray's label selector: the node must carry these
    zone: str = ""
    is_spot: bool = False
    price_per_hour: float = 0.0
    max_hosts: int = 1
    threads: int = 1
    memory_limit_bytes: int = 0
    adapter_memory_bytes: int = 0
    token_budget: int = 0


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
    host_type: str = ""
    numerics: str = ""  # hosts of equal numerics compute equal bits
    tokens_per_s: float = 0.0
    leaves_at_s: float | None = None  # a draining node is gone by then


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
    device_type: str = ""  # empty: any
    numerics: str = ""  # of the hosts it has trained on; empty: it has not begun
    width: int = 1  # devices it asks for: that many shards train data-parallel, `step_tokens` each
    shards: tuple[str, ...] = ()  # the hosts it is on besides `host`
    row_tokens: float = 0.0  # mean length of its rows; 0: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedStepTime:
    """What hosts' rows have shown: a row of T tokens with n steps takes start_s + token_s * T + adapter_s * n."""

    base: str
    device_type: str
    start_s: float
    token_s: float
    adapter_s: float
    token_budget: int  # of a row, mean of the hosts
    drift: float  # actual over predicted seconds when it was learned; 0: nothing had predicted them
    num_rows: int  # it was learned from


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Everything a policy may know. `now_s` is seconds since the Unix epoch, or virtual time."""

    now_s: float
    hosts: tuple[HostView, ...] = ()
    adapters: tuple[AdapterView, ...] = ()
    pending_hosts: tuple[HostView, ...] = ()
    prices: tuple[tuple[str, float], ...] = ()  # (host type, currency units per hour)
    host_types: tuple[HostType, ...] = ()
    profile_id: str = ""
    step_times: tuple[LearnedStepTime, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    adapter: str
    host: str
    epoch: int
    shards: tuple[str, ...] = ()  # further hosts, for an adapter whose `width` is above 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    adapter: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    adapter: str
    host: str
    epoch: int
    shards: tuple[str, ...] = ()


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
    host_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainHost:
    host: str


Action = Place | Pause | Migrate | SetGroup | LaunchHost | DrainHost


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """A policy's own memory between decisions, as plain data; FIFO needs none."""

    items: tuple[tuple[str, float], ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleSettings:
    """How many hosts there are. `policies.autoscale.PROFILES` names sets of these numbers."""

    profile: str = "custom"
    min_hosts: int = 0
    max_hosts: int = 1
    max_cost_per_hour: float = 0.0  # 0: no bound
    target_wait_s: float = 300.0  # launch while the queued work would take longer than this on the hosts there are
    jobs_per_host: int = 8  # where no speed has been measured yet: that many jobs fill a host
    up_delay_s: float = 0.0  # the need must have stood for so long
    down_delay_s: float = 120.0  # a host must have been idle, or one too many, for so long
    spot_share: float = 0.0  # of the hosts that may be spot, 0 to 1
    is_forecasting: bool = False
    start_patience_s: float = 1800.0  # a host that does not start is given up, its type not tried for as long; 0: never
    node_idle_timeout_s: float = 0.0  # an autoscaled node outlives its host by this, and costs as long; 0: not counted


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
    host_type: str = ""
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    labels: tuple[tuple[str, str], ...] = ()
    save_attempts: int = 5  # then the job fails, resumable; 0: for ever, training pauses at `max_uncommitted_steps`
    max_uncommitted_steps: int = 200
    probe_uri: str = ""  # a file of the storage that the host must be able to read
    service: str = ""
    actor_name: str = ""  # its own for ever: no host is ever taken for another
    orphan_s: float = 900.0  # without a word from placement for so long, a host ends
    memory: MemoryModel | None = None  # measured for this base; none: bounds


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
    facts: tuple[tuple[str, str], ...] = ()  # of its machine: what decides the bits, see mlora_ray.engine.numerics
    numerics: str = ""  # hash of the facts, device and threads: equal ones compute equal bits
    node_id: str = ""
    node_ip: str = ""


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
