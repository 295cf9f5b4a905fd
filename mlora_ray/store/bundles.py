"""Bundles: one adapter state at a step boundary, one file, written whole or not at all.

A bundle is a safetensors file whose header also holds the hash of its tensors and the caller's
`meta`. On a local disk it is written beside its final name, synced and renamed; elsewhere (s3://, gs://)
one object is put through fsspec, which is atomic there.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import fsspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mlora_ray.errors import StorageError
from mlora_ray.store.files import _storage, read_file, write_file

Arrays = dict[str, np.ndarray]


def arrays_sha256(arrays: Arrays) -> str:
    """Hash of names, dtypes, shapes and bytes, in name order; independent of the file format."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_bundle(uri: str, arrays: Arrays, meta: dict[str, Any]) -> str:
    """Write `arrays` and `meta` to `uri`, durable when it returns; answers the tensors' sha256.

    Raises StorageError; then no file of that name is there, or the one from before is whole.
    """
    sha256 = arrays_sha256(arrays)
    contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    write_file(uri, save(contiguous, metadata={"sha256": sha256, "meta": json.dumps(meta)}))
    return sha256


def read_bundle(uri: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and meta of a bundle. Raises StorageError when it is missing, torn or altered."""
    data = read_file(uri)
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        arrays = load(data)
        meta = json.loads(header["meta"])
        expected = header["sha256"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise StorageError(f"{uri}: not a whole bundle ({error})") from error
    if arrays_sha256(arrays) != expected:
        raise StorageError(f"{uri}: its tensors do not match the sha256 in its header")
    return arrays, meta


def delete_bundle(uri: str) -> None:
    """Remove a bundle; one that is not there is fine. Raises StorageError."""
    with _storage(uri, "removed"):
        filesystem, path = fsspec.core.url_to_fs(uri)
        if filesystem.exists(path):
            filesystem.rm_file(path)


def bundle_uri(root: str, job: str, step: int, epoch: int) -> str:
    """Where a bundle goes. The epoch is in the name: a fenced host never writes over its successor's file."""
    return f"{root}/{job}/step-{step:08d}-epoch-{epoch}.safetensors"


def list_bundles(root: str, job: str) -> list[str]:
    """Every file in a job's bundle folder, committed or not, temporary ones too. Raises StorageError."""
    folder = f"{root}/{job}"
    with _storage(folder, "listed"):
        filesystem, path = fsspec.core.url_to_fs(folder)
        if not filesystem.isdir(path):
            return []
        names = (entry.rsplit("/", 1)[-1] for entry in filesystem.ls(path, detail=False))
        return sorted(f"{folder}/{name}" for name in names)
