"""The fields a cluster settings file may hold, their types and ranges. docs/cluster-settings.md has the table."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Required

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from mlora_ray.config.field_types import Count, Number, Positive, Rate, Switch, Text
from mlora_ray.config.sizes import parse_bytes
from mlora_ray.errors import InputError
from mlora_ray.policies.scaling.presets import PROFILES

# Names of Ray's and others' settings, and what they are called here.
SYNONYMS = {
    "database_url": "database",
    "db": "database",
    "storage_path": "storage",
    "min_workers": "min_hosts",
    "max_workers": "max_hosts",
    "max_price": "max_cost_per_hour",
    "budget": "max_cost_per_hour",
    "idle_timeout_minutes": "node_idle_timeout_s",
    "idle_timeout_s": "node_idle_timeout_s",
    "forecast": "is_forecasting",
    "available_node_types": "host_types",
    "node_types": "host_types",
    "device_type": "device",
    "label_selector": "labels",
    "spot": "is_spot",
    "price": "price_per_hour",
    "memory_limit_bytes": "memory_limit",
    "adapter_memory_bytes": "adapter_memory",
    "tick": "tick_s",
}


def _profile(value: object) -> object:
    if value not in PROFILES:
        raise ValueError(f"one of {', '.join(PROFILES)}")
    return value


def _name(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("letters, digits, '.', '_' and '-', the first a letter or digit, at most 64")
    return value


def _database(value: object) -> object:
    if not isinstance(value, str) or not re.match(r"\w[\w+]*://", value):
        raise ValueError("a SQLAlchemy URL such as postgresql+psycopg://user@host/mlora or sqlite:////path/control.db")
    return value


def _size(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a size such as 8GB, 512MiB or 2000000000")
    try:
        return parse_bytes(str(value), "")
    except InputError as error:
        raise ValueError(error.mistakes[0].allowed) from None


Name = Annotated[str, BeforeValidator(_name)]
Size = Annotated[int, BeforeValidator(_size)]
Share = Annotated[Number, Field(ge=0, le=1)]
Seconds = Annotated[Number, Field(gt=0, le=86_400)]
Delay = Annotated[Number, Field(ge=0, le=7 * 86_400)]


class ScaleFields(TypedDict, total=False):
    """Numbers that stand beside, and over, those of the profile."""

    min_hosts: Count
    max_hosts: Positive
    max_cost_per_hour: Rate
    target_wait_s: Annotated[Number, Field(gt=0)]
    jobs_per_host: Positive
    up_delay_s: Delay
    down_delay_s: Delay
    spot_share: Share
    is_forecasting: Switch
    start_patience_s: Delay
    node_idle_timeout_s: Delay


class ServiceFields(TypedDict, total=False):
    """The top of the file beside `host_types` and the numbers of `ScaleFields`."""

    name: Name
    storage: Text
    database: Annotated[str, BeforeValidator(_database)]
    policy: Text
    tenant_shares: dict[Text, Annotated[Number, Field(gt=0)]]
    base_profiles: list[Text]
    profile: Annotated[str, BeforeValidator(_profile)]
    is_logging_decisions: Switch
    tick_s: Annotated[Number, Field(ge=0.05, le=60)]
    host_timeout_s: Seconds
    stall_timeout_s: Delay
    host_max_steps: Count
    memory_recycle_share: Annotated[Number, Field(gt=0, le=1)]
    save_attempts: Count
    max_uncommitted_steps: Positive
    page_root: Text


class HostTypeFields(TypedDict, total=False):
    """One item of `host_types`."""

    name: Required[Name]
    device: Literal["cpu", "cuda"]
    num_cpus: Annotated[Number, Field(ge=0)]
    num_gpus: Annotated[Number, Field(ge=0)]
    labels: dict[Text, Text]
    zone: Text
    is_spot: Switch
    price_per_hour: Rate
    max_hosts: Count
    threads: Positive
    memory_limit: Size
    adapter_memory: Size
    token_budget: Positive
