"""Bundles: whole or not at all."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from mlora_ray.errors import StorageError
from mlora_ray.store.bundles import arrays_sha256, bundle_uri, delete_bundle, list_bundles, read_bundle, write_bundle

ARRAYS = {"flat": np.arange(6, dtype=np.float32).reshape(3, 2), "step": np.asarray([7], np.int64)}


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_round_trip(tmp_path: Path, scheme: str) -> None:
    uri = bundle_uri(f"{scheme}{tmp_path}", "job", 7, 2)
    sha256 = write_bundle(uri, ARRAYS, {"job": "job", "num_tokens": 5})
    arrays, meta = read_bundle(uri)
    assert meta == {"job": "job", "num_tokens": 5}
    assert sha256 == arrays_sha256(arrays) == arrays_sha256(ARRAYS)
    assert all(np.array_equal(arrays[k], ARRAYS[k]) and arrays[k].dtype == ARRAYS[k].dtype for k in ARRAYS)
    assert list_bundles(f"{scheme}{tmp_path}", "job") == [uri]
    delete_bundle(uri)
    delete_bundle(uri)
    assert list_bundles(f"{scheme}{tmp_path}", "job") == []


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_any_altered_byte_is_noticed(at: int, flip: int) -> None:
    uri = "memory://altered/bundle"
    write_bundle(uri, ARRAYS, {})
    files, path = fsspec.core.url_to_fs(uri)
    data = bytearray(files.cat_file(path))
    data[at % len(data)] ^= flip
    files.pipe_file(path, bytes(data))
    try:
        arrays, _ = read_bundle(uri)
    except StorageError:
        return
    assert arrays_sha256(arrays) == arrays_sha256(ARRAYS)  # a byte of the padding


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_torn_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "bundle"
    write_bundle(str(path), ARRAYS, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StorageError, match="bundle"):
        read_bundle(str(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        read_bundle(str(tmp_path / "none"))


def _write_past_the_limit(path: str) -> None:
    """In a process of its own: the file size limit is the process's."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    write_bundle(path, {"flat": np.zeros(10_000, np.float32)}, {})


def test_a_write_that_fails_keeps_the_file_of_before_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    write_bundle(str(path), ARRAYS, {"first": True})
    code = f"from tests.store.test_bundles import _write_past_the_limit as w; w({str(path)!r})"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert "StorageError" in done.stderr
    assert "File too large" in done.stderr
    assert read_bundle(str(path))[1] == {"first": True}
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


class Bucket(MemoryFileSystem):
    """A bucket that cannot be reached, whose client raises errors of its own."""

    protocol = "away"

    class Unreachable(Exception):
        pass

    def _away(self, *args: object, **kwargs: object) -> NoReturn:
        raise Bucket.Unreachable("no endpoint")

    cat_file = pipe_file = exists = isdir = rm_file = _away


def test_a_clients_own_error_is_a_storage_error() -> None:
    fsspec.register_implementation("away", Bucket, clobber=True)
    calls: list[Callable[[], object]] = [
        lambda: write_bundle("away://b/one", ARRAYS, {}),
        lambda: read_bundle("away://b/one"),
        lambda: delete_bundle("away://b/one"),
        lambda: list_bundles("away://b", "job"),
        lambda: read_bundle("none-such://b/one"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"://b.* cannot be .*(no endpoint|none-such)"):
            call()


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        write_bundle(str(tmp_path / "job" / "bundle"), ARRAYS, {})
