"""Train a finished job again, alone, from its job.json, and compare every step and every saved tensor bit by bit.

Compared: each line of metrics.jsonl (loss, gradient norm, learning rate, tokens) and each tensor of
adapter_model.safetensors. Evaluation losses are not: they follow from the tensors.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlora_ray.display.progress_view import ProgressView
from mlora_ray.errors import InputError, MloraError
from mlora_ray.run.retrain import RECORDED, first_difference, machine_differences, read_recorded, train_again
from mlora_ray.store.run_files import read_metrics
from mlora_ray.types import JobSpec, JobState, StepReport
from mlora_ray.types.exit_codes import EXIT_DIFFERENT, EXIT_MISTAKE, EXIT_SUCCEEDED
from mlora_ray.types.serialization import finite
from mlora_ray.types.status import JobStatus, RunStatus

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """`first_step` and `first_tensor` are None where all steps, all tensors, are equal."""

    identical: bool
    weights_sha256: str  # of the adapter trained again
    expected_sha256: str  # as job.json has it
    first_step: int | None = None
    what: str = ""  # what differs first, e.g. "loss 2.31 != 2.3"
    first_tensor: str | None = None
    seconds: float = 0.0


def run_verify(job_dir: str, force: bool, as_json: bool) -> int:
    """The command: prints the result, answers the exit code. Differences of the machine refuse, unless `force`."""
    try:
        with _Watch(job_dir) as watch:
            result = verify(job_dir, force=force, on_step=watch)
    except InputError as error:
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        if any(mistake.field.startswith(RECORDED) for mistake in error.mistakes):
            print("the bits may differ for that reason alone; --force trains and compares anyway", file=sys.stderr)
        return EXIT_MISTAKE
    except MloraError as error:
        print(error, file=sys.stderr)
        return EXIT_MISTAKE
    if as_json:
        print(json.dumps(finite(dataclasses.asdict(result)), allow_nan=False))
    else:
        print("\n".join(_lines(result)))
    return EXIT_SUCCEEDED if result.identical else EXIT_DIFFERENT


def verify(
    job_dir: str, *, force: bool = False, on_step: Callable[[JobSpec, StepReport], None] | None = None
) -> VerifyResult:
    """Train the job of `job_dir` again and compare.

    Raises InputError when the folder holds no finished job or this machine differs in what decides the bits (with
    `force`, the latter is passed over), StorageError when a file is broken, MloraError when the base cannot be used.
    """
    started_s = time.perf_counter()
    held = read_recorded(Path(job_dir))
    mistakes = [] if force else machine_differences(held.folder, held.job)
    if mistakes:
        raise InputError(mistakes)
    first_step, step_what, trained = train_again(held, force, on_step)
    first_tensor, tensor_what = first_difference(trained, held.tensors)
    sha256, expected = _sha256(trained), str(held.job.get("weights_sha256", ""))
    if first_step is None and first_tensor is None and sha256 != expected:
        tensor_what = "every tensor is equal, but job.json has another weights_sha256"
    return VerifyResult(
        identical=first_step is None and first_tensor is None and sha256 == expected,
        weights_sha256=sha256,
        expected_sha256=expected,
        first_step=first_step,
        what=step_what or tensor_what,
        first_tensor=first_tensor,
        seconds=time.perf_counter() - started_s,
    )


def _sha256(tensors: dict[str, np.ndarray]) -> str:
    from mlora_ray.engine.peft_format import weights_sha256

    return weights_sha256(tensors)


def _lines(result: VerifyResult) -> list[str]:
    if result.identical:
        return [f"identical {result.weights_sha256}"]
    first = f"step {result.first_step}: {result.what}" if result.first_step is not None else "all steps are equal"
    lines = ["different", f"first step that differs: {first}"]
    if result.first_tensor is not None:
        note = f" ({result.what})" if result.first_step is None else ""
        lines.append(f"first tensor that differs: {result.first_tensor}{note}")
    elif result.first_step is not None:
        lines.append("all tensors are equal")
    else:
        lines.append(result.what)
    return [*lines, f"sha256 {result.weights_sha256}, recorded {result.expected_sha256}"]


class _Watch:
    """Shows the progress on stderr, so that stdout holds the result alone."""

    def __init__(self, job_dir: str) -> None:
        from rich.console import Console

        self._view = ProgressView(Console(stderr=True))
        self._total = sum(int(step.get("num_tokens", 0)) for step in read_metrics(Path(job_dir) / "metrics.jsonl"))
        self._done = 0
        self._started_s: float | None = None

    def __enter__(self) -> _Watch:
        self._view.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._view.__exit__(*error)

    def __call__(self, spec: JobSpec, report: StepReport) -> None:
        if self._started_s is None:  # the base is loaded: from here on it trains
            self._started_s = time.perf_counter() - report.seconds
        self._done += report.num_tokens
        elapsed_s = time.perf_counter() - self._started_s
        is_last = report.step >= spec.total_steps
        job = JobStatus(
            name=report.job,
            state=JobState.SUCCEEDED if is_last else JobState.TRAINING,
            step=report.step,
            total_steps=spec.total_steps,
            loss=report.loss,
            num_tokens=self._done,
            is_resident=True,
        )
        status = RunStatus(
            jobs=(job,),
            tokens_per_s=self._done / max(elapsed_s, 1e-9),
            elapsed_s=elapsed_s,
            total_tokens=max(self._total, self._done),
            done_tokens=self._done,
        )
        self._view.update(status)
