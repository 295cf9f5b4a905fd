"""Checks Kubernetes objects offline: KubeRay's fields by our schema, all others by the official client's types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes.client import models

SCHEMA = yaml.safe_load((Path(__file__).parent / "schemas/kuberay.yaml").read_text(encoding="utf-8"))
KINDS = {
    ("v1", "Namespace"): "V1Namespace",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Secret"): "V1Secret",
    ("v1", "Service"): "V1Service",
    ("apps/v1", "StatefulSet"): "V1StatefulSet",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
}
PLAIN: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "object": object,
    "datetime": (str, datetime),
}


def read(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def find_mistakes(one: dict[str, Any]) -> list[str]:
    """Where an object does not have the form of its kind."""
    if one["apiVersion"] == "ray.io/v1":
        return sorted(_of_kuberay(one))
    model = KINDS.get((one["apiVersion"], one["kind"]))
    return list(_of_kubernetes(one, model, one["kind"])) if model else [f"unknown kind {one['kind']}"]


def _of_kuberay(one: dict[str, Any]) -> Iterator[str]:
    """The schema of the object's kind; a nested core object is handed to the client's types."""

    def check_core(validator: Any, model: str, value: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
        for mistake in _of_kubernetes(value, model, ""):
            yield jsonschema.ValidationError(mistake)

    extended = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"x-kubernetes": check_core})
    if one["kind"] not in SCHEMA["$defs"]:
        yield f"unknown kind {one['kind']}"
        return
    schema = {"$ref": f"#/$defs/{one['kind']}", "$defs": SCHEMA["$defs"]}
    for error in extended(schema).iter_errors(one):
        yield f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"


def _of_kubernetes(value: Any, kind: str, where: str) -> Iterator[str]:
    if match := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is not a list"
            return
        for number, item in enumerate(value):
            yield from _of_kubernetes(item, match[1], f"{where}[{number}]")
    elif match := re.fullmatch(r"[Dd]ict(?:\[|\()str, (.+)(?:\]|\))", kind):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is not a mapping"
            return
        for key, item in value.items():
            # A quantity may be written as a number.
            is_quantity = where.endswith(("limits", "requests")) and isinstance(item, int)
            yield from () if is_quantity else _of_kubernetes(item, match[1], f"{where}.{key}")
    elif kind in PLAIN:
        allowed = PLAIN[kind]
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind in ("int", "float")):
            yield f"{where}: {value!r} is not of type {kind}"
    else:
        yield from _of_model(value, getattr(models, kind), where)


def _of_model(value: Any, model: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is not a mapping"
        return
    fields = {name: attribute for attribute, name in model.attribute_map.items()}
    for name, item in value.items():
        if name not in fields:
            yield f"{where}: no field {name!r} in {model.__name__}"
        else:
            yield from _of_kubernetes(item, model.openapi_types[fields[name]], f"{where}.{name}")
    for attribute, field in model.model_fields.items():
        name = model.attribute_map.get(attribute, field.alias or attribute)
        if field.is_required() and value.get(name) is None:
            yield f"{where}: field {name!r} of {model.__name__} is required"
