"""What makes two jobs the same job: the fields that decide its bits, their hash, and how two specs differ."""

from __future__ import annotations

from collections.abc import Sequence

from mlora_ray.errors import Mistake
from mlora_ray.types import JobSpec, serialization


def spec_differences(
    here: Sequence[JobSpec], given: Sequence[JobSpec], file: str, where: str = "the run in this directory"
) -> list[Mistake]:
    """A mistake for each field in which the jobs of `file` are not the jobs that are `here`, said to be `where`."""
    before, now = {s.name: s for s in here}, {s.name: s for s in given}
    mistakes = [_differs(file, n, "name", "", f"{where} has no such job") for n in now if n not in before]
    mistakes += [_differs(file, n, "name", "", f"missing: {where} has it") for n in before if n not in now]
    for name in sorted(set(before) & set(now)):
        old, new = serialization.flat_fields(before[name]), serialization.flat_fields(now[name])
        for key in sorted(old | new):
            is_place = key.endswith("_rows.source")  # the same rows, named from another folder
            if old.get(key) != new.get(key) and not is_place:
                allowed = f"{where} began with {old.get(key)!r}"
                mistakes.append(_differs(file, name, key, str(new.get(key)), allowed))
    return mistakes


def _differs(file: str, job: str, field: str, value: str, allowed: str) -> Mistake:
    return Mistake(file=file, field=f"jobs.{job}.{field}", value=value, allowed=allowed)
