"""One file, whole or not at all, at a path or a URL."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec

from mlora_ray.errors import StorageError


def write_file(uri: str, data: bytes) -> None:
    """Write a whole file or none. Raises StorageError."""
    with _storage(uri, "written"):
        filesystem, path = fsspec.core.url_to_fs(uri)
        if "file" in filesystem.protocol:
            _replace_local(Path(path), data)
        else:
            filesystem.pipe_file(path, data)


def read_file(uri: str) -> bytes:
    """Raises StorageError."""
    with _storage(uri, "read"):
        filesystem, path = fsspec.core.url_to_fs(uri)
        return bytes(filesystem.cat_file(path))


@contextlib.contextmanager
def _storage(uri: str, done: str) -> Iterator[None]:
    """Whatever a file system raises is storage's: those of buckets raise their clients' own errors, not OSError."""
    try:
        yield
    except Exception as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StorageError(f"{uri}: cannot be {done}: {why}") from error


def _replace_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
