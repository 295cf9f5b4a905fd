"""The thread behind a run: it begins, watches, sums up or saves, and keeps what has come of it."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlora_ray.api.callbacks import Callback, Listeners
from mlora_ray.config.job_file import JobFile
from mlora_ray.run.finish import finish, save
from mlora_ray.run.local import private_session
from mlora_ray.run.options import TrainOptions
from mlora_ray.run.session import Started, TrainSession
from mlora_ray.types.status import RunStatus
from mlora_ray.types.storage_layout import StorageLayout

if TYPE_CHECKING:
    from rich.console import Console


class Drive:
    """One run in one directory. `begun` is set once its jobs are queued or it has failed, `ended` at its end."""

    def __init__(
        self, job_file: JobFile, options: TrainOptions, callbacks: Sequence[Callback] = (), inputs: Path | None = None
    ) -> None:
        self.session: TrainSession | None = None
        self.last: RunStatus | None = None
        self.error: BaseException | None = None
        self.is_interrupted = self._is_unwanted = False
        self.begun, self.ended = threading.Event(), threading.Event()
        self._job_file, self._options, self._inputs = job_file, options, inputs
        self._listeners = Listeners(callbacks)

    def start(self) -> None:
        """Answers once the jobs are queued. Raises InputError and MloraError where they cannot be."""
        threading.Thread(target=self._work, name=f"mlora {self._options.out}").start()
        try:
            self.begun.wait()
        except KeyboardInterrupt:  # nobody has the run yet: it ends, saved, before the interrupt goes on
            self._is_unwanted = True
            self.ended.wait()
            raise
        if self.session is None and self.error is not None:
            self.ended.wait()
            raise self.error

    def _work(self) -> None:
        try:
            with private_session(self._job_file, self._options, Started()) as session:
                self._listeners.begin(session.service)
                session.start()
                self._keep_inputs(session)
                self.session = session
                session.interrupt.is_set = self._is_unwanted
                self.begun.set()
                self._watch(session)
        except BaseException as error:  # noqa: BLE001 - the thread's edge: whoever waits for the run is told
            self.error = self.error or error
        finally:
            self.begun.set()
            self.ended.set()

    def _watch(self, session: TrainSession) -> None:
        status = session.wait(self._heard)
        code = None if session.interrupt.is_set else finish(session, status, False, _quiet())
        if code is None:
            save(session, _quiet())
            self.is_interrupted = True
        self.last = session.progress()
        if self.error is None:
            self._listeners.hear(session.service, self.last)
        session.end()

    def _heard(self, status: RunStatus) -> None:
        self.last = status
        if self.session is None or self.error is not None:
            return
        try:
            self._listeners.hear(self.session.service, status)
        except Exception as error:  # noqa: BLE001 - a callback's own: the adapters are saved, then it is raised
            self.error = error
            self.session.interrupt.is_set = True

    def _keep_inputs(self, session: TrainSession) -> None:
        if self._inputs is not None:
            shutil.copytree(self._inputs, StorageLayout(session.storage).inputs, dirs_exist_ok=True)


def _quiet() -> Console:
    from rich.console import Console

    return Console(file=io.StringIO())
