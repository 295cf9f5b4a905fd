"""The fields a job file may hold, their types and ranges (PEFT's and TRL's names). Defaults are those of types.py."""

from __future__ import annotations

import datetime
import math
import re
from typing import Annotated, Any, Literal, Required

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from mlora_ray.config.data_fields import DataFields
from mlora_ray.config.field_reader import names_of
from mlora_ray.config.field_types import MOST, Count, Number, Positive, Rate, Seed, Switch, Text, described
from mlora_ray.config.schedule_fields import schedule_type

INITS = ("gaussian", "orthogonal")
# transformers' names of the optimizers; Lion of bitsandbytes has another beta2 by default (`LION_32BIT`).
LION_32BIT = ("lion_32bit", "paged_lion_32bit")
OPTIMS = {
    "adamw": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_torch_xla": "adamw",
    "adamw_torch_npu_fused": "adamw",
    "adamw_apex_fused": "adamw",
    "paged_adamw": "adamw",
    "paged_adamw_32bit": "adamw",
    "sgd": "sgd",
    "lion": "lion",
    **{name: name for name in LION_32BIT},
}

# Names of transformers, PEFT and other trainers, and what they are called here.
SYNONYMS = {
    "train_batch_size": "batch_size",
    "micro_batch_size": "batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
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
    "lora_target": "target_modules",
    "lora_exclude_modules": "exclude_modules",
    "lora_layers_to_transform": "layers_to_transform",
    "lora_alpha_pattern": "alpha_pattern",
    "lora_rank_pattern": "rank_pattern",
    "peft_use_rslora": "use_rslora",
    "layers": "layers_to_transform",
    "lr": "learning_rate",
    "loraplus_ratio": "loraplus_lr_ratio",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_ratio",
    "adam_beta_1": "adam_beta1",
    "adam_beta_2": "adam_beta2",
    "adam_eps": "adam_epsilon",
    "wd": "weight_decay",
    "grad_clip": "max_grad_norm",
    "optimizer": "optim",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "evaluation_steps": "eval_steps",
    "evaluation_strategy": "eval_strategy",
    "checkpoint_steps": "save_steps",
    "init_weights": "init_lora_weights",
    "model": "base",
    "model_name_or_path": "base",
    "base_model": "base",
    "torch_dtype": "dtype",
    "data": "train",
    "dataset": "train",
    "train_file": "train",
    "train_on_prompt": "completion_only_loss",
    "train_dataset": "train",
    "datasets": "train",
    "eval_file": "eval",
    "eval_dataset": "eval",
    "text_field": "dataset_text_field",
    "text_column": "dataset_text_field",
    "column_mapping": "columns",
    "field_mapping": "columns",
    "excess_length_strategy": "overlong",
    "test_datasets": "eval",
    "validation": "eval",
    "id": "name",
    "device": "device_type",
}


def _init(value: object) -> object:
    if isinstance(value, bool):
        return "kaiming" if value else "random"
    if value in INITS:
        return value
    if isinstance(value, str) and re.match(r"pissa|olora|loftq|eva|corda|lora_ga|mica", value):
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


def _excluded(value: object) -> object:
    """As PEFT: a text is one regular expression for the whole name, even where it looks like a module's name."""
    if isinstance(value, str) and value:
        return (_regex(value if re.search(r"[^\w.\-]", value) else f"(?:{value})"),)
    if value == [] or (isinstance(value, list) and all(_is_plain(each) for each in value)):
        return value
    raise ValueError("a list of module names, or one regular expression as a text")


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.\-]+", value) is not None


def _regex(value: str, form: str = "{}") -> str:
    """`form` is where the pattern will stand: flags are taken at the start of an expression only."""
    try:
        re.compile(form.replace("{}", value))
    except re.error as error:
        raise ValueError(f"a module name or a valid regular expression: {error}") from None
    return value


def _layers(value: object) -> object:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _layer_lists(value: object) -> object:
    names = [value] if isinstance(value, str) and value else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError("the name of the base's list of layers, such as layers or h, or a list of them")
    return [_regex(name, r"^.*?\.{}\.") for name in names]


def _ranks(value: object) -> object:
    for pattern, rank in _patterns(value, "rank"):
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ValueError(f"ranks that are whole numbers of at least 1, not {rank!r} for {pattern}")
    return tuple(_patterns(value, "rank"))


def _alphas(value: object) -> object:
    for pattern, alpha in _patterns(value, "lora_alpha"):
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
            raise ValueError(f"numbers above 0, not {alpha!r} for {pattern}")
    return tuple(_patterns(value, "lora_alpha"))


def _patterns(value: object, what: str) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        raise ValueError(f"a mapping from module name to {what}")
    return [(_regex(pattern, r"(.*\.)?({})$"), each) for pattern, each in value.items()]


def _optim(value: object) -> object:
    if isinstance(value, str) and value in OPTIMS:
        return OPTIMS[value]
    if (isinstance(value, str) and "8bit" in value) or "4bit" in str(value):
        raise ValueError("adamw, sgd or lion: an adapter's moments are small, and stay in float32")
    raise ValueError("adamw, sgd or lion, or transformers' names of these such as adamw_torch")


def _every(value: object) -> object:
    """A number of steps, or below 1 the part of all steps, as transformers reads it."""
    if isinstance(value, float) and 0 < value < 1:
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise ValueError("a whole number of steps, or a part of all steps between 0 and 1")
    return value


def _warmup(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
        raise ValueError("a number of steps, or below 1 the part of all steps")
    if value >= 1 and value != int(value):
        raise ValueError("a whole number of steps, or below 1 the part of all steps")
    return value


def _save_strategy(value: object) -> object:
    if value == "best":
        raise ValueError("no, steps or epoch: bundles are what a job goes on from, whatever its loss")
    return value


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


class FileFields(TypedDict, total=False):
    """The top of the file beside `jobs` and `defaults`."""

    base: Required[Text]
    dtype: Literal["bfloat16", "float32"]
    seed: Seed


class JobOnlyFields(TypedDict, total=False):
    """What has no default."""

    name: Required[Text]
    train: Required[Any]  # read by data_fields.read_sources
    eval: Any


Patterns = tuple[tuple[str, float], ...]
Beta = Annotated[Number, Field(ge=0, lt=1)]
Strategy = Literal["no", "steps", "epoch"]


class JobFields(DataFields, total=False):
    """What may stand in `defaults` and in a job."""

    r: Positive
    lora_alpha: Annotated[Number, Field(gt=0)]
    lora_dropout: Beta
    use_rslora: Switch
    target_modules: Annotated[tuple[Text, ...], BeforeValidator(_targets)]
    exclude_modules: Annotated[tuple[Text, ...], BeforeValidator(_excluded)]
    layers_to_transform: Annotated[tuple[Count, ...], BeforeValidator(_layers)]
    layers_pattern: Annotated[tuple[Text, ...], BeforeValidator(_layer_lists)]
    rank_pattern: Annotated[tuple[tuple[str, int], ...], BeforeValidator(_ranks)]
    alpha_pattern: Annotated[Patterns, BeforeValidator(_alphas)]
    init_lora_weights: Annotated[str, BeforeValidator(_init)]
    learning_rate: Rate
    loraplus_lr_ratio: Annotated[Number, Field(gt=0)]
    lr_scheduler_type: Annotated[str, BeforeValidator(schedule_type)]
    lr_scheduler_kwargs: dict[str, Any]  # see schedule_fields.py
    warmup_ratio: Annotated[Number, Field(ge=0, le=1)]
    warmup_steps: Annotated[float, BeforeValidator(_warmup)]
    weight_decay: Rate
    max_grad_norm: Rate
    optim: Annotated[str, BeforeValidator(_optim)]
    adam_beta1: Beta
    adam_beta2: Beta
    adam_epsilon: Rate
    batch_size: Positive
    gradient_accumulation_steps: Annotated[int, Field(strict=True, ge=1, le=100_000)]
    num_epochs: Annotated[Number, Field(ge=0, le=1_000_000)]
    max_steps: Annotated[int, Field(strict=True, ge=-1, le=MOST)]
    max_length: Annotated[int, Field(strict=True, ge=2, le=MOST)]
    eval_strategy: Strategy
    eval_steps: Annotated[float, BeforeValidator(_every)]
    save_strategy: Annotated[Strategy, BeforeValidator(_save_strategy)]
    save_steps: Annotated[float, BeforeValidator(_every)]
    seed: Seed
    data_seed: Seed
    completion_only_loss: Switch
    tenant: Text
    priority: Annotated[int, Field(strict=True, ge=-MOST, le=MOST)]
    deadline: Annotated[float, BeforeValidator(_moment)]  # seconds since the Unix epoch
    device_type: Literal["cpu", "cuda"]


# Those of the rows come last where all are listed.
JOB_FIELDS = tuple(sorted(names_of(JobFields), key=names_of(DataFields).__contains__))
JOB_ONLY = names_of(JobOnlyFields)
