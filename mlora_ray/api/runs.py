"""A run of jobs on this machine, driven by a thread of its own: `train` waits for it, `start` does not."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mlora_ray.api.results import JobResult
from mlora_ray.errors import MloraError
from mlora_ray.store.run_files import read_json
from mlora_ray.types.status import RunStatus

if TYPE_CHECKING:
    from mlora_ray.api.drive import Drive
    from mlora_ray.types.records import Event

SHOWN_EVERY_S = 0.25


class Interrupted(MloraError):
    """A run was told to stop; every adapter is saved.

    >>> raise Interrupted("interrupted: every adapter is saved")
    Traceback (most recent call last):
    mlora_ray.api.runs.Interrupted: interrupted: every adapter is saved
    """


class Run:
    """Jobs that train, or have trained, into one directory. `run["sql"]` is one of them.

    Made by `train`, `start`, `resume` and `open_run`. Any method may be called from any thread.

    >>> run, len(run), run.failed
    (<mlora_ray.Run '...': 2 jobs, ended>, 2, {})
    >>> [event.kind for event in run.events() if event.job == "a"][0]
    'placed'
    """

    def __init__(self, out: Path, names: Sequence[str], drive: Drive | None = None) -> None:
        self.out = out
        self.names = tuple(names)
        self._drive = drive  # None: the run ended in another process

    def __getitem__(self, name: str) -> JobResult:
        if name not in self.names:
            raise KeyError(f"{name!r}: the jobs of {self.out} are {', '.join(self.names)}")
        return JobResult(name, self.out / name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<mlora_ray.Run {str(self.out)!r}: {len(self.names)} jobs, {'ended' if self.is_done else 'training'}>"

    @property
    def is_done(self) -> bool:
        return self._drive is None or self._drive.ended.is_set()

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: the run in numbers; empty before its end."""
        return read_json(self.out / "summary.json")

    @property
    def failed(self) -> dict[str, str]:
        """Jobs that have not succeeded, each with its reason: also those of a run that was stopped or goes on."""
        from mlora_ray.run.directory import RunDirectory

        return RunDirectory(str(self.out)).unfinished()

    def progress(self) -> RunStatus:
        """Every job as it is now; after the end, as it was then. Raises MloraError for a run of another process."""
        drive = self._drive
        if drive is not None and drive.session is not None and not drive.ended.is_set():
            return drive.session.progress()
        if drive is None or drive.last is None:
            raise MloraError(f"the run in {self.out} was opened after its end: see its summary, `failed` and events")
        return drive.last

    def events(self, after: int = 0) -> tuple[Event, ...]:
        """What happened to jobs and hosts, in order; `after` is the id of the last one that you know."""
        from mlora_ray.run.directory import RunDirectory

        return RunDirectory(str(self.out)).events(after)

    def wait(self, timeout_s: float | None = None, progress: bool = False) -> Self:
        """Until every job has ended. Raises what ended the run; TimeoutError, and the run goes on.

        Ctrl-C, or an interrupted cell, saves every adapter and raises Interrupted: `resume` goes on.
        """
        drive = self._drive
        if drive is None:
            return self
        try:
            _show(drive, timeout_s) if progress else drive.ended.wait(timeout_s)
        except KeyboardInterrupt:
            self.stop()
        if not drive.ended.is_set():
            raise TimeoutError(f"the run in {self.out} has not ended within {timeout_s:g} s")
        if drive.error is not None:
            raise drive.error
        if drive.is_interrupted:
            raise Interrupted(f"interrupted: every adapter is saved; mlora_ray.resume({str(self.out)!r}) goes on")
        return self

    def stop(self) -> None:
        """Save every adapter at its next step and end the run; `resume` goes on to the same bits."""
        if self._drive is None:
            return
        self._drive.begun.wait()
        if self._drive.session is not None:
            self._drive.session.interrupt.is_set = True
        self._drive.ended.wait()


def _show(drive: Drive, timeout_s: float | None) -> None:
    """Progress until the end, by the run's own thread's answers."""
    from mlora_ray.display.progress_view import ProgressView

    began_s = time.monotonic()
    with ProgressView() as view:
        while True:
            has_ended = drive.ended.wait(SHOWN_EVERY_S)
            elapsed_s = time.monotonic() - began_s
            if drive.last is not None:
                view.update(dataclasses.replace(drive.last, elapsed_s=elapsed_s))
            if has_ended or (timeout_s is not None and elapsed_s > timeout_s):
                return
