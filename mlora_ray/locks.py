"""A lock on a run directory that ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from mlora_ray.errors import MloraError

POLL_S = 0.05


class RunLock:
    """An flock on a file. Raises MloraError when another process holds it for longer than `timeout_s`."""

    def __init__(self, path: str, timeout_s: float = 0.0) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline_s = time.monotonic() + timeout_s
        while not self._try():
            if time.monotonic() >= deadline_s:
                holder = os.pread(self._file, 32, 0).decode(errors="replace").strip()
                os.close(self._file)
                raise MloraError(f"{Path(path).parent}: another process (pid {holder or 'unknown'}) is using this run")
            time.sleep(POLL_S)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
