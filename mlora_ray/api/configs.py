"""`peft.LoraConfig` and TRL's `SFTConfig`, as the fields of a job file.

What a job file takes is always said, also at the class's own default: TRL's default learning rate is not ours. Of
what it does not take, only what was set: the reader of job files says what to use instead.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from mlora_ray.bases.resolve import resolve_base
from mlora_ray.config.job_fields import JOB_FIELDS
from mlora_ray.config.peft_trl_fields import FIELDS, Taken
from mlora_ray.errors import InputError, Mistake

OUR_NAMES = {name: field.ours for name, field in FIELDS.items() if isinstance(field, Taken)}
TAKEN = frozenset(JOB_FIELDS) | OUR_NAMES.keys()
# Every trainer's script sets it; here `out` says where results go, a folder for each job's name.
UNUSED = frozenset({"output_dir"})


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a mapping, a LoraConfig, an SFTConfig or None. Raises TypeError for anything else."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"a LoraConfig, an SFTConfig, TrainingArguments or a mapping, not {type(config).__name__}")
    usual = type(config)()  # what __post_init__ fills in is not what the user set
    given = {}
    for each in dataclasses.fields(config):
        value, default = getattr(config, each.name, None), getattr(usual, each.name, None)
        if value is not None and each.init and each.name not in UNUSED and (each.name in TAKEN or value != default):
            given[each.name] = plain(value)
    return given


def one_name_each(*given: Mapping[str, Any]) -> dict[str, Any]:
    """All of these fields; where two mean one thing, such as `batch_size` and TRL's name of it, the later one."""
    fields: dict[str, tuple[str, Any]] = {}
    for each in given:
        fields |= {OUR_NAMES.get(name, name): (name, value) for name, value in each.items()}
    return dict(fields.values())


def plain(value: Any) -> Any:
    """`value` as YAML would hold it: enums by value, sets in order, numbers of numpy and torch as Python's own."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(each) for each in value)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, type):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def default_target_modules(base: str) -> list[str]:
    """What PEFT adapts in this base where a LoraConfig names no `target_modules`. Raises InputError where it has none.

    A config without `target_modules` in a mapping is a job file's: its default is all-linear.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    config = json.loads((Path(resolve_base(base).path) / "config.json").read_text(encoding="utf-8"))
    model_type = str(config.get("model_type", ""))
    if model_type not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        allowed = f"named: PEFT has no default for {model_type!r}; 'all-linear' adapts every linear layer"
        raise InputError([Mistake(file="lora", field="target_modules", value="None", allowed=allowed)])
    return list(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[model_type])
