"""The Ray cluster of one run alone: on this machine, and no longer than this process."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from mlora_ray.errors import MloraError

MAX_TEMP_DIR = 40  # characters: a unix socket's path has 107, and Ray adds up to 65
END_TIMEOUT_S = 10.0
OBJECT_STORE_BYTES = 128 << 20  # only orders and reports pass through it


@contextmanager
def embedded(*, num_cpus: int, note: Path) -> Iterator[None]:
    """A private cluster on this machine; it ends with the block, or with this process however that ends.

    `note` holds its directory while it lives, so that the next run can remove what a killed one left.
    """
    import ray

    if ray.is_initialized():
        said = "this process is a driver of a Ray cluster already: mlora_ray.connect() trains there"
        raise MloraError(f"{said}; ray.shutdown() leaves it")
    if note.exists():
        shutil.rmtree(note.read_text(encoding="utf-8").strip() or "-", ignore_errors=True)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A killed driver takes its GCS along; what is left of the cluster waits for it so long, 60 s by default.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "20")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= MAX_TEMP_DIR - 12 else "/tmp"
    folder = tempfile.mkdtemp(prefix="mlora-", dir=short)
    note.write_text(folder, encoding="utf-8")
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        yield
    finally:
        started = _processes_of(folder)
        ray.shutdown()
        _wait_for_end(started)
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)


def _processes_of(folder: str) -> list[psutil.Process]:
    """Ray's, each of which names its directory, and what they have started; no other child of this process."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any(folder in word for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _wait_for_end(processes: list[psutil.Process]) -> None:
    """Return when none of these is alive; a process that a busy machine keeps from ending is killed."""
    _, alive = psutil.wait_procs(processes, timeout=END_TIMEOUT_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=END_TIMEOUT_S)
