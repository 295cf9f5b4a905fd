"""A placement service of a Ray cluster, from Python: what the cluster commands do."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mlora_ray.api.callbacks import Callback, Listeners
from mlora_ray.api.training import job_file_of, named_as_here
from mlora_ray.errors import MloraError

if TYPE_CHECKING:
    from mlora_ray.actors.client import Service
    from mlora_ray.api.jobs import Job
    from mlora_ray.types.records import Event
    from mlora_ray.types.status import HostStatus, RunStatus

T = TypeVar("T")
POLL_S = 0.5


def connect(address: str = "auto", service: str = "mlora") -> Cluster:
    """Join the Ray cluster at `address` (host:port, or auto for this machine's). Raises InputError without one.

    The service need not run yet: `Cluster.submit` starts it. One process joins one cluster at a time; end with
    `close`, or use it as a context manager.

    >>> with connect(address, service="examples") as cluster:
    ...     names = cluster.submit(jobs, "tiny-llama", storage=storage)
    ...     status = cluster.wait(*names, timeout_s=300)
    ...     sha256 = cluster.export("a", to=exported)
    >>> status.counts(), sha256 == run["a"].sha256
    ('2 done', True)
    """
    from mlora_ray.actors.connect import joined

    stack = contextlib.ExitStack()
    stack.enter_context(joined(address))
    return Cluster(address, service, stack)


class Cluster:
    """A cluster that this process has joined. Its jobs go on without this process.

    >>> cluster = connect(address, service="examples")
    >>> [job.name for job in cluster.status().jobs], len(cluster.hosts(gone=True)) > 0
    (['a', 'b'], True)
    >>> cluster.close()
    >>> cluster.status()
    Traceback (most recent call last):
    mlora_ray.errors.MloraError: the connection to ... is closed: mlora_ray.connect(...) again

    Every method raises InputError for what is a mistake (an unknown job, no service), MloraError for what failed.
    """

    def __init__(self, address: str, service: str, stack: contextlib.ExitStack) -> None:
        self.address, self.service_name = address, service
        self._stack: contextlib.ExitStack | None = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; the second time nothing happens."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def submit(
        self,
        jobs: Sequence[Job] | str | Path,
        base: str = "",
        *,
        storage: str = "",
        settings: str = "",
        dtype: str | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Hand jobs to the service, which is started if it is not there; answers their names.

        `storage` is a directory or URL that every node reaches, `settings` a file of cluster settings.
        """
        from rich.console import Console

        from mlora_ray.run.new_service import Target
        from mlora_ray.run.submit import submit_jobs

        self._check_open()
        target = Target(service=self.service_name, storage=storage, storage_option="storage", settings_path=settings)
        with job_file_of(jobs, base, dtype=dtype, seed=seed) as (job_file, _), named_as_here(job_file):
            _, specs = submit_jobs(
                job_file, target, f"mlora_ray.connect({self.address!r}).submit", Console(file=io.StringIO())
            )
        return [spec.name for spec in specs]

    def status(self, *names: str) -> RunStatus:
        """These jobs, or all of them, as they are now."""
        return self._service().status(names)

    def wait(self, *names: str, timeout_s: float | None = None, callbacks: Sequence[Callback] = ()) -> RunStatus:
        """Until these jobs, or all, have ended. Raises TimeoutError; the jobs go on."""
        service, listeners = self._service(), Listeners(callbacks)
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            status = service.status(names)
            listeners.hear(service, status)
            if all(job.state.is_final for job in status.jobs):
                return status
            if until_s is not None and time.monotonic() > until_s:
                raise TimeoutError(f"not every job has ended within {timeout_s:g} s: {status.counts()}")
            time.sleep(POLL_S)

    def pause(self, *names: str) -> tuple[str, ...]:
        """Save jobs at their next step and let them rest; answers those that were not resting already."""
        return self._service().pause(names)

    def resume(self, *names: str) -> tuple[str, ...]:
        """Let paused and failed jobs go on from their last committed step; answers those that had stopped."""
        return self._service().resume(names)

    def cancel(self, *names: str) -> tuple[str, ...]:
        """End jobs for good; what they have committed stays in the storage."""
        return self._service().cancel(names)

    def export(self, job: str, to: str | Path, *, latest: bool = False) -> str:
        """The adapter as a folder that PEFT loads; answers its SHA-256. `latest`: also of a job that trains on."""
        from mlora_ray.run.export import export_job

        return export_job(self._service(), job, str(to), latest)[1]

    def events(self, after: int = 0, job: str = "") -> tuple[Event, ...]:
        """What happened, in order: of one job where it is named, after the event of id `after`."""
        return self._service().events(after, job)

    def hosts(self, *, gone: bool = False) -> tuple[HostStatus, ...]:
        """The hosts; with `gone` also those that are no more."""
        return self._service().hosts(gone)

    def _service(self) -> Service:
        from mlora_ray.actors.connect import find_service

        self._check_open()
        return find_service(self.service_name)

    def _check_open(self) -> None:
        if self._stack is None:
            raise MloraError(f"the connection to {self.address} is closed: mlora_ray.connect({self.address!r}) again")
