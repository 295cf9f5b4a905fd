"""Train a finished job again, alone, from its folder; compare the machine, the steps and the tensors."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlora_ray.engine.numerics import differences, machine_facts, recorded_facts
from mlora_ray.errors import InputError, Mistake, StorageError
from mlora_ray.store.run_files import read_json, read_metrics
from mlora_ray.types import BaseSpec, JobSpec, RowsRef, StepReport
from mlora_ray.types.storage_layout import StorageLayout

if TYPE_CHECKING:
    import numpy as np

    from mlora_ray.data.tokenized_rows import Rows
    from mlora_ray.engine.base import Base
    from mlora_ray.engine.engine import Engine

COMPARED = ("loss", "grad_norm", "learning_rate", "num_tokens", "num_target_tokens")
RECORDED = "recorded "  # starts the field of every mistake that `force` passes over


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A finished job as its folder has it."""

    folder: Path
    spec: JobSpec
    job: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, np.ndarray]


def read_recorded(folder: Path) -> Recorded:
    """Raises InputError when there is no job.json, StorageError when a file is broken."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from mlora_ray.types.serialization import from_plain

    job = read_json(folder / "job.json")
    if not job:
        where = str(folder / "job.json")
        raise InputError(
            [Mistake(file=where, field="job.json", value="", allowed="in the folder of a finished job; there is none")]
        )
    try:
        spec: JobSpec = from_plain(JobSpec, job["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{folder / 'job.json'}: not a job of this version: {error}") from error
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{folder / 'adapter_model.safetensors'}: cannot be read: {error}") from error
    steps = tuple(read_metrics(folder / "metrics.jsonl"))
    return Recorded(folder=folder, spec=spec, job=job, steps=steps, tensors=tensors)


def machine_differences(folder: Path, job: Mapping[str, Any]) -> list[Mistake]:
    """What differs between this machine and the recorded one, of all that decides the bits but the base.

    Training again takes up the recorded threads, dtype and row tile; they are compared with what is possible here.
    """
    from mlora_ray.engine.base import ROW_TILE

    is_cpu = str(job.get("device", "cpu")) == "cpu"
    here = machine_facts("cpu" if is_cpu else "cuda")
    settings = {"dtype": str(job["spec"]["base"]["dtype"]), "row_tile": str(ROW_TILE)}
    recorded = recorded_facts(job) | {name: str(job[name]) for name in settings if job.get(name)}
    mistakes = [_differs(folder, *one) for one in differences(recorded, here | settings)]
    threads, cores = int(job.get("threads") or 1), len(os.sched_getaffinity(0))
    if is_cpu and threads > cores:
        mistakes.append(_differs(folder, "threads", threads, f"{cores} cores"))
    return mistakes


def first_difference(trained: Mapping[str, np.ndarray], saved: Mapping[str, np.ndarray]) -> tuple[str | None, str]:
    """The first tensor, by name, whose bytes differ, and how; (None, "") when there is none."""
    for name in sorted({*trained, *saved}):
        if name not in saved:
            return name, f"{name} is not in adapter_model.safetensors"
        if name not in trained:
            return name, f"{name} is in adapter_model.safetensors, but not in the adapter trained again"
        a, b = trained[name], saved[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            return name, f"{name} is {a.dtype} {a.shape}, saved as {b.dtype} {b.shape}"
        if a.tobytes() != b.tobytes():
            number = int((a != b).sum())
            return name, f"{name} differs in {number:,} of {a.size:,} values, by at most {float(abs(a - b).max()):.3g}"
    return None, ""


def train_again(
    held: Recorded, force: bool, on_step: Callable[[JobSpec, StepReport], None] | None
) -> tuple[int | None, str, dict[str, np.ndarray]]:
    """(first step that differs, how, the exported tensors). Raises InputError on another base, StorageError."""
    import torch

    from mlora_ray.engine.engine import Engine
    from mlora_ray.engine.peft_format import peft_tensors

    rows = _load_rows(held.folder, held.spec.train_rows)
    threads_before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="mlora-verify-") as page_dir:
        try:
            with contextlib.closing(Engine(_load_base(held, force), page_dir=page_dir)) as engine:
                engine.admit(held.spec, rows)
                first_step, what = _compare_steps(_reports(engine, held.spec, on_step), held)
                tensors = peft_tensors(engine.state(held.spec.name))
        finally:
            torch.set_num_threads(threads_before)
    return first_step, what, tensors


def _reports(
    engine: Engine, spec: JobSpec, on_step: Callable[[JobSpec, StepReport], None] | None
) -> Iterator[StepReport | str]:
    """Each step's report; the error's text, and no more, where training stops."""
    while engine.has_work:
        for report in engine.step():
            if not isinstance(report, StepReport):
                yield f"training stops after step {report.step}: {report.error}"
                return
            if on_step:
                on_step(spec, report)
            yield report


def _compare_steps(reports: Iterator[StepReport | str], held: Recorded) -> tuple[int | None, str]:
    """The first step that differs from metrics.jsonl, and how. Goes through all reports."""
    saved = {int(step["step"]): step for step in held.steps}
    first: tuple[int | None, str] = (None, "")
    last = 0
    for report in reports:
        at = last + 1 if isinstance(report, str) else report.step
        what = report if isinstance(report, str) else _step_difference(report, saved.get(report.step))
        if what and first[0] is None:
            first = (at, what)
        last = at
    extra = [step for step in saved if step > last]
    if extra and first[0] is None:
        first = (min(extra), f"metrics.jsonl goes on after the last step, {last}")
    return first


def _step_difference(report: StepReport, saved: Mapping[str, Any] | None) -> str:
    if saved is None:
        return "no line in metrics.jsonl"
    for name in COMPARED:
        now, then = getattr(report, name), saved.get(name)
        if now != then:
            return f"{name} {now!r} != {then!r}"
    return ""


def _load_base(held: Recorded, force: bool) -> Base:
    from mlora_ray.bases.resolve import resolve_base
    from mlora_ray.engine.base import ROW_TILE
    from mlora_ray.engine.base_loading import load_base

    spec: BaseSpec = held.spec.base
    if not Path(spec.path).is_dir():
        spec = resolve_base(spec.name, spec.dtype)
    device = "cpu" if held.job.get("device", "cpu") == "cpu" else "cuda"
    threads, tile = int(held.job.get("threads") or 1), int(held.job.get("row_tile") or ROW_TILE)
    base = load_base(spec, device=device, threads=threads, tile=tile)
    recorded = held.job.get("base_sha256")
    if recorded != base.sha256 and not force:
        raise InputError([_differs(held.folder, "base_sha256", recorded, f"{base.sha256} in {spec.path}")])
    files = held.job.get("base_files_sha256")  # runs of earlier versions have none
    if files and files != base.files_sha256 and not force:
        now = f"{base.files_sha256}: config.json, tokenizer or chat template in {spec.path}"
        raise InputError([_differs(held.folder, "base_files_sha256", files, now)])
    return base


def _load_rows(folder: Path, ref: RowsRef) -> Rows:
    """The rows of `ref`, or of the run's own data folder when the directory was moved. Raises StorageError."""
    from mlora_ray.data.tokenized_rows import from_bytes, rows_sha256
    from mlora_ray.store.files import read_file

    moved = Path(StorageLayout(str(folder.resolve().parent)).rows(ref.sha256))
    uri = str(moved) if moved.is_file() else ref.uri
    try:
        rows = from_bytes(read_file(uri))
    except (StorageError, ValueError, KeyError) as error:
        raise StorageError(f"{uri}: the rows of {ref.source} cannot be read: {error}") from error
    found = rows_sha256(rows)
    if found != ref.sha256:
        raise StorageError(f"{uri}: these are not the rows that were trained on: {found} != {ref.sha256}")
    return rows


def _differs(folder: Path, field: str, then: Any, now: Any) -> Mistake:
    return Mistake(
        file=str(folder / "job.json"), field=f"{RECORDED}{field}", value=str(then), allowed=f"{now}, as it is here"
    )
