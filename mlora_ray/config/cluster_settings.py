"""The cluster settings file: YAML checked at the edge, `ServiceSettings` inside. All mistakes come at once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlora_ray.config.cluster_fields import SYNONYMS, HostTypeFields, ScaleFields, ServiceFields
from mlora_ray.config.field_reader import FieldReader, names_of
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.config.step_time_profiles import read_profile
from mlora_ray.config.yaml_lines import Document, Value, dotted, read_yaml
from mlora_ray.errors import InputError, Mistake
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.policies.scaling.presets import PROFILES
from mlora_ray.types import AutoscaleSettings, HostType
from mlora_ray.types.storage_layout import StorageLayout

STORAGE_VARIABLE = "MLORA_STORAGE"
DATABASE_VARIABLE = "MLORA_DATABASE"
GIVEN = "command line"
MIN_TICKS = 3  # in `host_timeout_s`


def read_settings(path: str, environment: Mapping[str, str] | None = None, **overrides: Value) -> ServiceSettings:
    """The settings of a file, with `overrides` (keys of the file) over it and the environment where it says nothing.

    No `path`: the defaults. The storage may stay empty; where it is a directory, so may the database, which then lies
    in it. Raises InputError with every mistake, each with its line.
    """
    document, mistakes = read_yaml(Path(path), "settings file") if path else (Document({}, {}), [])
    value = {} if document.value is None else document.value
    reader = _SettingsReader(Path(path or GIVEN), Document(value, document.lines), mistakes, overrides)
    settings = reader.read(os.environ if environment is None else environment)
    if reader.mistakes:
        raise InputError(reader.mistakes)
    return settings


class _SettingsReader:
    """Collects mistakes while it turns the document into `ServiceSettings`."""

    def __init__(self, path: Path, document: Document, mistakes: list[Mistake], given: Mapping[str, Value]) -> None:
        self._path, self._document, self._given = path, document, given
        self._fields = FieldReader(path, document, mistakes, SYNONYMS)

    @property
    def mistakes(self) -> list[Mistake]:
        """In the order of the file; what the command line said has no line in it."""
        found = sorted(self._fields.mistakes, key=lambda m: m.line)
        return [self._at_its_source(one) for one in found]

    def read(self, environment: Mapping[str, str]) -> ServiceSettings:
        if not isinstance(self._document.value, dict):
            self._fields.add((), "settings file", repr(self._document.value)[:60], "a mapping of settings")
            return ServiceSettings()
        top = {**self._document.value, **self._given}
        types = top.pop("host_types", None)
        scale = {k: v for k, v in top.items() if k in names_of(ScaleFields)}
        rest = {k: v for k, v in top.items() if k not in scale}
        held = self._fields.validated(ServiceFields, rest, (), also=(*names_of(ScaleFields), "host_types"))
        autoscale = self._autoscale(held.pop("profile", "custom"), self._fields.validated(ScaleFields, scale, ()))
        storage = self._storage(held.pop("storage", ""), environment)
        database = self._database(held.pop("database", ""), storage, environment)
        self._check_policy(held.get("policy", ServiceSettings().policy))
        self._check_times(held)
        shares = tuple(sorted(held.pop("tenant_shares", {}).items()))
        profiles = self._profiles(held.pop("base_profiles", []))
        return ServiceSettings(
            **held,
            storage=storage,
            database_url=database,
            host_types=self._host_types(types, autoscale),
            autoscale=autoscale,
            base_profiles=profiles,
            tenant_shares=shares,
        )

    def _autoscale(self, profile: str, numbers: dict) -> AutoscaleSettings:
        settings = dataclasses.replace(PROFILES[profile], **numbers)
        if settings.min_hosts > settings.max_hosts:
            allowed = f"at most max_hosts, which is {settings.max_hosts}"
            if "max_hosts" not in numbers:
                allowed += f" (profile {profile})"
            self._fields.add(("min_hosts",), "min_hosts", str(settings.min_hosts), allowed)
        return settings

    def _host_types(self, value: Value, autoscale: AutoscaleSettings) -> tuple[HostType, ...]:
        if value is None:
            value = [{"name": "cpu"}]
        if not isinstance(value, list) or not value:
            self._fields.add(("host_types",), "host_types", repr(value)[:60], "a list of at least one host type")
            return ()
        found = [self._host_type(one, number, autoscale.max_hosts) for number, one in enumerate(value)]
        types = tuple(one for one in found if one is not None)
        self._check_names(types)
        self._check_prices(types, autoscale)
        return types

    def _host_type(self, value: Value, number: int, max_hosts: int) -> HostType | None:
        at = ("host_types", number)
        if not isinstance(value, dict):
            self._fields.add(at, dotted(at), repr(value)[:60], "a mapping with at least a name")
            return None
        before = len(self._fields.mistakes)
        held = self._fields.validated(HostTypeFields, value, at)
        is_gpu = held.get("device") == "cuda"
        if (held.get("num_gpus", float(is_gpu)) > 0) != is_gpu:
            where, allowed = (*at, "num_gpus"), "above 0 where device is cuda, and only there"
            self._fields.add(where, dotted(where), f"{held['num_gpus']:g}", allowed)
        if len(self._fields.mistakes) > before:
            return None
        num_cpus = held.get("num_cpus", 1.0)
        chosen: dict[str, float] = {"max_hosts": max_hosts, "threads": 1 if is_gpu else max(1, int(num_cpus))}
        chosen |= {"num_gpus": 1.0} if is_gpu else {}
        sizes = {f"{k}_bytes": held.pop(k) for k in ("memory_limit", "adapter_memory") if k in held}
        labels = tuple(sorted(held.pop("labels", {}).items()))
        return HostType(**{**chosen, **held, **sizes, "labels": labels})

    def _profiles(self, names: list[str]) -> tuple[StepTimeModel, ...]:
        """Profiles of `mlora-ray profile`; a relative path is beside the settings file."""
        found: dict[tuple[str, str], StepTimeModel] = {}
        for number, name in enumerate(names):
            where = ("base_profiles", number)
            try:
                profile = read_profile(str(self._path.parent / Path(name).expanduser()))
            except InputError as error:
                self._fields.add(
                    where, dotted(where), name, f"a sound profile: {'; '.join(str(m) for m in error.mistakes)}"
                )
                continue
            key = (profile.base, profile.device_type)
            if key in found or (profile.memory and profile.memory.base != profile.base):
                allowed = f"one profile a base and device; this one is of {profile.base} on {profile.device_type}"
                self._fields.add(where, dotted(where), name, allowed)
            found.setdefault(key, profile)
        return tuple(found.values())

    def _check_names(self, types: tuple[HostType, ...]) -> None:
        names = [one.name for one in types]
        for name in sorted({n for n in names if names.count(n) > 1}):
            number = max(i for i, n in enumerate(names) if n == name)
            where = ("host_types", number, "name")
            self._fields.add(where, dotted(where), name, "a name of its own")

    def _check_prices(self, types: tuple[HostType, ...], autoscale: AutoscaleSettings) -> None:
        """A bound in money needs prices, and must pay for one host."""
        most = autoscale.max_cost_per_hour
        if most <= 0 or not types:
            return
        if free := [one.name for one in types if one.price_per_hour <= 0]:
            allowed = f"left out, or every host type has a price_per_hour; {', '.join(free)} has none"
            self._fields.add(("max_cost_per_hour",), "max_cost_per_hour", f"{most:g}", allowed)
        elif most < (least := min(one.price_per_hour for one in types)):
            allowed = f"at least {least:g}, the price of the cheapest host type: no host could be launched"
            self._fields.add(("max_cost_per_hour",), "max_cost_per_hour", f"{most:g}", allowed)

    def _storage(self, value: str, environment: Mapping[str, str]) -> str:
        """An absolute path or a URL without a slash at its end. A relative path is beside the settings file."""
        is_of_file = bool(value) and "storage" not in self._given
        value = value or environment.get(STORAGE_VARIABLE, "")
        if not value:
            return ""
        if "://" in value and not value.startswith("file://"):
            return value.rstrip("/")
        plain = Path(value.removeprefix("file://")).expanduser()
        return str((self._path.parent / plain if is_of_file else plain).absolute())

    def _database(self, value: str, storage: str, environment: Mapping[str, str]) -> str:
        value = value or environment.get(DATABASE_VARIABLE, "")
        if value:
            self._check_database(value)
        if value or not storage:
            return value
        if "://" in storage:
            allowed = (
                f"a URL such as postgresql+psycopg://user@host/mlora, here or in {DATABASE_VARIABLE}: "
                f"the storage {storage} is no directory that could hold one"
            )
            self._fields.add(("database",), "database", "", allowed)
            return ""
        return StorageLayout(storage).database_url

    def _check_database(self, url: str) -> None:
        """Only its kind: whether it answers is seen when it is opened."""
        from mlora_ray.types.database_url import ALLOWED, DRIVERS, shown

        if "://" not in url or url.partition("://")[0] not in DRIVERS:
            self._fields.add(("database",), "database", shown(url), ALLOWED)

    def _check_times(self, held: dict[str, Any]) -> None:
        """A host that answers one tick late must not be fenced off for it."""
        tick_s = held.get("tick_s", ServiceSettings().tick_s)
        timeout_s = held.get("host_timeout_s", ServiceSettings().host_timeout_s)
        if timeout_s < MIN_TICKS * tick_s:
            allowed = f"at least {MIN_TICKS} times tick_s, which is {tick_s:g}"
            self._fields.add(("host_timeout_s",), "host_timeout_s", f"{timeout_s:g}", allowed)

    def _check_policy(self, name: str) -> None:
        try:
            load_policy(name)
        except ValueError as error:
            self._fields.add(("policy",), "policy", name, f"one that can be loaded: {error}")

    def _at_its_source(self, one: Mistake) -> Mistake:
        if one.field.split("[")[0].split(".")[0] in self._given:
            return dataclasses.replace(one, file=GIVEN, line=0)
        return one if self._document.lines else dataclasses.replace(one, line=0)
