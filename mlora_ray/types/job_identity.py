"""What makes two jobs the same job: the fields that decide its bits, their hash, and how two specs differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from mlora_ray.errors import Mistake
from mlora_ray.types.jobs import JobSpec

# Where a spec's files lie is not what it says: a moved run or cache directory is the same job.
_PLACES = ("base.path", "train_rows.uri", "eval_rows.uri")
# What became of rows on their way to tokens is for people: the tokens have a hash of their own.
_COUNTS = ("train_rows.counts", "eval_rows.counts")
# What orders or places a job decides no bit of it.
_PLACING = ("tenant", "priority", "deadline_at_s", "device_type")


def flat_fields(spec: JobSpec) -> dict[str, Any]:
    """The fields that say what a job is, as `lora.r: 8`; without file places, and what only orders or places jobs.

    A field with `since` in its metadata counts only where it is not at its default: specs keep their hash.
    """
    left_out = (*_PLACES, *_PLACING)
    return {key: v for key, v in _walk("", spec) if key not in left_out and not key.startswith(_COUNTS)}


def spec_sha256(spec: JobSpec) -> str:
    """Hash of `flat_fields`: equal hashes train to equal bits on the same base, device and versions."""
    return hashlib.sha256(json.dumps(flat_fields(spec), sort_keys=True).encode()).hexdigest()


def _walk(prefix: str, facts: Any) -> Iterator[tuple[str, Any]]:
    for each in dataclasses.fields(facts):
        value = getattr(facts, each.name)
        if "since" in each.metadata and value == each.default:
            continue
        if dataclasses.is_dataclass(value):
            yield from _walk(f"{prefix}{each.name}.", value)
        else:
            yield f"{prefix}{each.name}", _as_list(value)


def _as_list(value: Any) -> Any:
    return [_as_list(each) for each in value] if isinstance(value, tuple) else value


def spec_differences(
    here: Sequence[JobSpec], given: Sequence[JobSpec], file: str, where: str = "the run in this directory"
) -> list[Mistake]:
    """A mistake for each field in which the jobs of `file` are not the jobs that are `here`, said to be `where`."""
    before, now = {s.name: s for s in here}, {s.name: s for s in given}
    mistakes = [_is(file, n, f"a new name: {where} has no such job") for n in now if n not in before]
    mistakes += [_is(file, n, f"missing: {where} has it") for n in before if n not in now]
    for name in sorted(set(before) & set(now)):
        old, new = flat_fields(before[name]), flat_fields(now[name])
        for key in sorted(old | new):
            is_place = key.endswith("_rows.source")  # the same rows, named from another folder
            if old.get(key) != new.get(key) and not is_place:
                allowed = f"{_shown(old, key)}: {where} began with it"
                mistakes.append(Mistake(file=file, job=name, field=key, value=_shown(new, key), allowed=allowed))
    return mistakes


def _shown(fields: dict[str, Any], key: str) -> str:
    """A field that is left out where it is at its default has no value here."""
    return repr(fields[key]) if key in fields else "left out"


def _is(file: str, job: str, what: str) -> Mistake:
    return Mistake(file=file, job=job, field="name", value="", allowed=what, verb="is")
