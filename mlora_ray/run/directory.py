"""DIR: what a run keeps where, and who may use it. Refuses to touch what is not its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from mlora_ray.errors import DatabaseError, DatabaseInUse, InputError, Mistake
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import JobSpec, JobState
from mlora_ray.types.job_identity import spec_differences
from mlora_ray.types.records import Event, JobRecord, Machine
from mlora_ray.types.storage_layout import StorageLayout


class RunDirectory:
    """Paths of one run. Nothing is written until `open`."""

    def __init__(self, path: str) -> None:
        self.root = Path(path).absolute()
        layout = StorageLayout(str(self.root))
        self.ours, self.data, self.bundles = Path(layout.folder), Path(layout.data), Path(layout.bundles)
        self.pages, self.decisions, self.ray_note = Path(layout.pages), Path(layout.decisions), Path(layout.ray_note)
        self.database, self.database_url = Path(layout.database), layout.database_url
        self._was_there = self.root.exists()
        self._lock = FileLock(layout.lock, timeout=0, thread_local=False)
        self._holder = self.ours / "pid"

    def open(self, *, is_resume: bool, is_overwrite: bool) -> None:
        """Take the directory for this process. Raises InputError when it may not be used."""
        if is_resume and is_overwrite:
            raise self._mistake("--resume", "left out together with --overwrite")
        if self.root.exists() and not self.root.is_dir():
            raise self._mistake("--out", "a directory; this is a file")
        is_strange = self._was_there and any(self.root.iterdir()) and not self.ours.is_dir()
        if is_strange:
            raise self._mistake("--out", "an empty or new directory; this one has files and holds no run")
        if self.database.exists() and not (is_resume or is_overwrite):
            raise self._mistake(
                "--out", "a directory without a run: go on with --resume, or begin anew with --overwrite"
            )
        self._take()
        if is_overwrite and self.database.exists():
            self._check_at_rest()

    def _take(self) -> None:
        """The lock ends with the process that holds it, however that ends; its number is for others to read."""
        try:
            self.ours.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._holder.write_text(str(os.getpid()), encoding="utf-8")
        except Timeout as error:
            holder = self._holder.read_text(encoding="utf-8") if self._holder.exists() else "unknown"
            allowed = f"{self.ours}: another process (pid {holder}) is using this run"
            raise self._mistake("--out", allowed) from error
        except OSError as error:
            raise self._mistake("--out", f"a directory that can be written: {error.strerror}") from error

    def _check_at_rest(self) -> None:
        """The lock tells of runs on this machine, the database's lease of a service. Raises InputError."""
        try:
            database = ControlDatabase(self.database_url)
        except DatabaseError:
            return  # of a newer version, or damaged: no service of ours can be at work on it
        try:
            database.take_lease(f"--overwrite of {self.root}")
            database.release_lease()
        except DatabaseInUse as error:
            self.close()
            raise self._mistake("--overwrite", f"of a run at rest: {error}") from error
        except DatabaseError:
            return
        finally:
            database.close()

    def close(self) -> None:
        self._lock.release()

    def forget(self) -> None:
        """Leave no trace of a run that never began."""
        self.close()
        if not self._was_there:
            shutil.rmtree(self.root, ignore_errors=True)

    def forget_untrained(self) -> None:
        """Leave the directory free if the run that is here ended before any training; else as it is."""
        try:
            if self.database.exists() and any(r.step or r.bundle_uri for r in self._read_jobs()):
                return
        except DatabaseError:
            return
        self.empty()
        shutil.rmtree(self.data, ignore_errors=True)
        self.forget()

    def empty(self) -> None:
        """Remove the run that is here: its jobs' folders and our own files; other files stay."""
        if not self.database.exists():
            return
        try:
            names = [r.spec.name for r in self._read_jobs()]
        except DatabaseError:
            names = [p.parent.name for p in self.root.glob("*/job.json")]
        for name in names:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for path in (*self.root.glob("summary.json"), *self.root.glob("report.html"), self.decisions):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.bundles, ignore_errors=True)
        shutil.rmtree(self.pages, ignore_errors=True)
        for path in self.ours.glob(f"{self.database.name}*"):
            path.unlink()

    def machine(self) -> Machine | None:
        """What the run that is here began on; None when there is none."""
        database = ControlDatabase(self.database_url)
        try:
            return database.machine()
        finally:
            database.close()

    def holds(self, specs: list[JobSpec], job_file: str) -> bool:
        """True when a run of these jobs is here. Raises InputError, a mistake a field, when it is another run."""
        if not self.database.exists():
            return False
        here = [r.spec for r in self._read_jobs()]
        if not here:
            return False  # ended before it had queued anything
        if mistakes := spec_differences(here, specs, job_file):
            raise InputError(mistakes)
        return True

    def names(self) -> tuple[str, ...]:
        """The jobs of the run that is here, in their order; none where there is no run."""
        return tuple(r.spec.name for r in self._read_jobs()) if self.database.exists() else ()

    def unfinished(self) -> dict[str, str]:
        """Jobs of the run that is here that have not succeeded: their error, else where they stand."""
        records = self._read_jobs() if self.database.exists() else []
        left = [r for r in records if r.state is not JobState.SUCCEEDED]
        return {r.spec.name: r.error or f"{r.state} at step {r.step} of {r.spec.total_steps}" for r in left}

    def events(self, after: int = 0) -> tuple[Event, ...]:
        """What has happened to the run that is here, oldest first; ids above `after`."""
        database = ControlDatabase(self.database_url)
        try:
            return tuple(database.events(after))
        finally:
            database.close()

    def _read_jobs(self) -> list[JobRecord]:
        database = ControlDatabase(self.database_url)
        try:
            return database.jobs()
        finally:
            database.close()

    def _mistake(self, field: str, allowed: str) -> InputError:
        return InputError([Mistake(file="command line", field=field, value=str(self.root), allowed=allowed)])
