"""DIR/<job>/metrics.jsonl: a line for each committed step, made from the database's rows."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlora_ray.store.files import write_file
from mlora_ray.types import StepReport

TAIL_BYTES = 2048  # more than one line

log = logging.getLogger(__name__)


class MetricsFiles:
    """The metrics files under one output root (local: appended to; elsewhere: written by `rewrite`)."""

    def __init__(self, out_root: str) -> None:
        self._root = out_root
        self._is_local = "://" not in out_root

    def append(self, job: str, steps: Sequence[StepReport], is_final: bool) -> bool:
        """Add a committed bundle's steps. False: it could not be, and `rewrite` has to mend the file."""
        if not self._is_local:
            return not is_final
        path = Path(self._root) / job / "metrics.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(_lines(steps))
        except OSError as error:
            log.warning("job=%s metrics.jsonl: %s", job, error)
            return False
        return True

    def is_whole(self, job: str, step: int, is_final: bool) -> bool:
        """Whether the file ends with the last committed step; in an object store that is not asked, but doubted."""
        if not self._is_local:
            return not is_final
        try:
            with open(Path(self._root) / job / "metrics.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                tail = file.read()
            return tail.endswith(b"\n") and int(json.loads(tail.splitlines()[-1])["step"]) == step
        except FileNotFoundError:
            return step == 0
        except (OSError, ValueError, KeyError):
            return False

    def rewrite(self, job: str, steps: Iterable[StepReport]) -> None:
        """Write the file anew from the database. Raises StorageError."""
        steps = list(steps)
        if steps or (self._is_local and (Path(self._root) / job / "metrics.jsonl").exists()):
            write_file(f"{self._root}/{job}/metrics.jsonl", _lines(steps).encode())


def _lines(steps: Iterable[StepReport]) -> str:
    return "".join(json.dumps(_metric(s)) + "\n" for s in steps)


def _metric(step: StepReport) -> dict[str, float | int]:
    line: dict[str, float | int] = {
        "step": step.step,
        "epoch": step.data_epoch,
        "loss": step.loss,
        "learning_rate": step.learning_rate,
        "grad_norm": step.grad_norm,
        "num_tokens": step.num_tokens,
        "num_target_tokens": step.num_target_tokens,
        "seconds": step.seconds,
    }
    return line if step.eval_loss is None else line | {"eval_loss": step.eval_loss}
