"""What a user asks: jobs. Field names of `LoraSpec` and `TrainSpec` are PEFT's and TRL's own. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


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

    @property
    def is_on_host(self) -> bool:
        """A host owns it, whether it has begun there or not."""
        return self in (JobState.PLACED, JobState.TRAINING, JobState.MIGRATING)


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
    alpha_pattern: tuple[tuple[str, float], ...] = field(default=(), metadata={"since": "0.2"})
    exclude_modules: tuple[str, ...] = field(default=(), metadata={"since": "0.2"})
    layers_pattern: tuple[str, ...] = field(default=(), metadata={"since": "0.2"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """How it is trained: TRL's `SFTConfig` fields with its defaults, but LoRA's learning rate.

    Exactly one of `num_epochs` and `max_steps` is above zero; at most one of `warmup_ratio` and `warmup_steps` is.
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
    lr_scheduler_kwargs: tuple[tuple[str, float | str], ...] = field(default=(), metadata={"since": "0.2"})
    warmup_steps: int = field(default=0, metadata={"since": "0.2"})
    adam_beta1: float = field(default=0.9, metadata={"since": "0.2"})  # of AdamW and Lion
    adam_beta2: float | None = field(default=None, metadata={"since": "0.2"})  # None: 0.999 of AdamW, 0.99 of Lion
    adam_epsilon: float = field(default=1e-8, metadata={"since": "0.2"})
    data_seed: int | None = field(default=None, metadata={"since": "0.2"})  # of the order of rows; None: `seed`


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
class FileCounts:
    """How many rows one file, folder or data set of a job has, and how many of them a data pass takes."""

    source: str
    weight: float = 1.0
    num_read: int
    num_dropped: int
    num_taken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """What became of rows on their way to tokens. For people: the rows' hash says what they are."""

    num_dropped: int = 0  # rows that `max_length` leaves without a target
    num_straddling: int = 0  # rows in which a token begins before a target and reaches into it
    num_with_start: int = 0  # rows of text that began with the token that the tokenizer puts first
    unread: tuple[str, ...] = ()  # columns and fields of messages that nothing reads
    files: tuple[FileCounts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRef:
    """Tokenised rows in storage (see `data/tokenized_rows.py`), named by the hash of their content."""

    uri: str
    sha256: str
    source: str  # the file or data set the user named
    num_rows: int
    num_tokens: int
    num_target_tokens: int
    num_truncated: int
    max_row_tokens: int
    counts: RowCounts = field(default=RowCounts(), metadata={"since": "0.2"})


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


BUFFER_ROWS = {"adamw": 3, "lion": 2, "sgd": 1}  # weights and moments by optimizer
