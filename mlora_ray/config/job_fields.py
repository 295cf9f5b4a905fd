"""The fields a job file may hold, their types and ranges (PEFT's and TRL's names)."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mlora_ray.config.data_fields import DataFields
from mlora_ray.config.field_types import MOST, Count, Number, Positive, Rate, Seed, Switch, Text, described

INITS = ("gaussian", "orthogonal")

# Names of transformers, PEFT and other trainers, and what they are called here.
SYNONYMS = {
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "micro_batch_size": "batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "num_train_epochs": "num_epochs",
    "epochs": "num_epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "lora_r": "r",
    "rank": "r",
    "lora_rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "rslora": "use_rslora",
    "lora_target_modules": "target_modules",
    "layers": "layers_to_transform",
    "lr": "learning_rate",
    "loraplus_ratio": "loraplus_lr_ratio",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_ratio",
    "warmup_steps": "warmup_ratio",
    "wd": "weight_decay",
    "grad_clip": "max_grad_norm",
    "optimizer": "optim",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "cutoff_len": "max_length",
    "evaluation_steps": "eval_steps",
    "checkpoint_steps": "save_steps",
    "init_weights": "init_lora_weights",
    "model": "base",
    "model_name_or_path": "base",
    "base_model": "base",
    "torch_dtype": "dtype",
    "data": "train",
    "dataset": "train",
    "train_file": "train",
    "train_dataset": "train",
    "eval_file": "eval",
    "eval_dataset": "eval",
    "text_field": "dataset_text_field",
    "text_column": "dataset_text_field",
    "column_mapping": "columns",
    "field_mapping": "columns",
    "excess_length_strategy": "overlong",
    "subset": "name",
    "config_name": "name",
    "ratio": "weight",
    "validation": "eval",
    "id": "name",
    "device": "device_type",
}


def _init(value: object) -> object:
    if isinstance(value, bool):
        return "kaiming" if value else "random"
    if value in INITS:
        return value
    if isinstance(value, str) and re.match(r"pissa|olora|loftq|eva|corda|lora_ga", value):
        raise ValueError(f"true, false, gaussian or orthogonal: {value} rewrites or measures the base, which is shared")
    raise ValueError("true, false, gaussian or orthogonal")


def _targets(value: object) -> object:
    if value is None or value == "" or value == []:
        raise ValueError("all-linear, or a list of module names")
    if isinstance(value, str):
        return ("all-linear",) if value.lower() == "all-linear" else (_regex(value),)
    if isinstance(value, list) and "all-linear" in value:
        raise ValueError("all-linear alone, not in a list")
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"a module name or a valid regular expression: {error}") from None
    return value


def _layers(value: object) -> object:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _patterns(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("a mapping from module name to rank")
    for pattern, rank in value.items():
        _regex(pattern)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ValueError(f"ranks that are whole numbers of at least 1, not {rank!r} for {pattern}")
    return tuple(value.items())


def _moment(value: object) -> object:
    """A time with its offset from UTC, in seconds since the Unix epoch."""
    try:
        moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise ValueError(f"a time such as 2030-01-31T18:00:00+01:00, not {described(value)}")
    if moment.tzinfo is None:
        raise ValueError(f"a time with its offset from UTC, such as {moment.isoformat()}+00:00")
    return moment.timestamp()


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileFields(_Fields):
    """The top of the file beside `jobs` and `defaults`."""

    base: Text
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seed: Seed = 42


class JobOnlyFields(_Fields):
    """What has no default."""

    name: Text
    train: Any  # read by data_fields.read_sources
    eval: Any = None


class JobFields(DataFields):
    """What may stand in `defaults` and in a job; a field that is not set keeps the default of types.py."""

    r: Positive = 8
    lora_alpha: Annotated[Number, Field(gt=0)] = 8.0
    lora_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    use_rslora: Switch = False
    target_modules: Annotated[tuple[Text, ...], BeforeValidator(_targets)] = ("all-linear",)
    layers_to_transform: Annotated[tuple[Count, ...], BeforeValidator(_layers)] = ()
    rank_pattern: Annotated[tuple[tuple[str, int], ...], BeforeValidator(_patterns)] = ()
    init_lora_weights: Annotated[str, BeforeValidator(_init)] = "kaiming"
    learning_rate: Rate = 2e-4
    loraplus_lr_ratio: Annotated[Number, Field(gt=0)] = 1.0
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: Annotated[Number, Field(ge=0, le=1)] = 0.0
    weight_decay: Rate = 0.0
    max_grad_norm: Rate = 1.0
    optim: Literal["adamw", "sgd", "lion"] = "adamw"
    batch_size: Positive = 8
    gradient_accumulation_steps: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 1
    num_epochs: Annotated[Number, Field(ge=0, le=1_000_000)] = 3.0
    max_steps: Count = 0
    max_length: Annotated[int, Field(strict=True, ge=2, le=MOST)] = 1024
    eval_steps: Count = 0
    save_steps: Count = 50
    seed: Seed = 42
    completion_only_loss: Switch = True
    tenant: Text = "default"
    priority: Annotated[int, Field(strict=True, ge=-MOST, le=MOST)] = 0
    deadline: Annotated[float, BeforeValidator(_moment)] = 0.0  # seconds since the Unix epoch
    device_type: Literal["cpu", "cuda"] = "cpu"  # a job that does not say goes on any


JOB_FIELDS = tuple(JobFields.model_fields)
