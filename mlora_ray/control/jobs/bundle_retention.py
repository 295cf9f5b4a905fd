"""Which bundle files a job keeps: the last two that are committed; what is damaged, superseded or stray goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from mlora_ray.control.jobs.state import JobEntry, JobTable
from mlora_ray.errors import StorageError
from mlora_ray.store.bundles import delete_bundle, list_bundles, read_bundle
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.store.files import read_file
from mlora_ray.types import BundleReport

NUM_KEPT_BUNDLES = 2

log = logging.getLogger(__name__)


class SavedFiles:
    """Bundle files of all jobs under one root."""

    def __init__(self, database: ControlDatabase, bundle_root: str, probe_uri: str) -> None:
        self._db, self._root, self._probe_uri = database, bundle_root, probe_uri

    def keep(self, job: JobEntry, report: BundleReport) -> list[str]:
        """A bundle was committed: answers those it makes superfluous, for `remove`."""
        job.kept.append((report.step, report.bundle_uri))
        old, job.kept = job.kept[:-NUM_KEPT_BUNDLES], job.kept[-NUM_KEPT_BUNDLES:]
        kept = {uri for _, uri in job.kept}
        return [uri for _, uri in old if uri not in kept]

    def remove(self, uris: Sequence[str]) -> None:
        """Forget these bundles, then delete their files. A file that stays costs space, nothing else."""
        if uris:
            self._db.forget_bundles(uris)
        for uri in uris:
            self._delete(uri)

    def sweep(self, job: JobEntry) -> None:
        """Remove files of bundles that were never committed."""
        kept = {uri for _, uri in job.kept}
        try:
            stray = [uri for uri in list_bundles(self._root, job.name) if uri not in kept]
        except OSError as error:
            log.warning("job=%s %s", job.name, error)
            return
        for uri in stray:
            self._delete(uri)

    def fall_back_to_whole(self, jobs: JobTable, job: JobEntry, now_s: float) -> bool:
        """True when the newest bundle was damaged or gone and the job was rolled back to the newest whole one.

        Storage that is away as a whole says nothing about a bundle.
        """
        was = job.record.bundle_uri
        while job.record.bundle_uri and (why := _damage(job.record.bundle_uri)):
            if _said(read_file, self._probe_uri):
                return False
            job.kept = [(s, uri) for s, uri in job.kept if s < job.record.step]
            step, uri = job.kept[-1] if job.kept else (0, "")
            self._db.roll_back(job.name, step, uri, now_s, why)
            log.warning("rolled back job=%s step=%d: %s", job.name, step, why)
            tokens = sum(s.num_tokens for s, _ in self._db.steps(job.name))
            jobs.change(job, step=step, bundle_uri=uri, num_tokens=tokens)
        return job.record.bundle_uri != was

    def _delete(self, uri: str) -> None:
        try:
            delete_bundle(uri)
        except StorageError as error:
            log.warning("%s", error)


def _damage(uri: str) -> str:
    """Why this bundle cannot be used; empty when it is whole."""
    return _said(read_bundle, uri)


def _said(read: Callable[[str], object], uri: str) -> str:
    try:
        read(uri)
    except StorageError as error:
        return str(error)
    return ""
