"""Where a base comes from: an embedded name, a local directory or a Hub id; always a directory in the end.

Embedded bases are made once into `cache_dir()`, in a temporary folder that is renamed when complete, under a lock.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from pathlib import Path

from mlora_ray.bases.embedded import EMBEDDED, embedded_base
from mlora_ray.errors import mistake_in
from mlora_ray.types import BaseSpec

DTYPES = ("bfloat16", "float32")
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "tokenizer*"]
IDENTITY_FILES = ("config.json", "tokenizer", "chat_template", "special_tokens_map", "added_tokens", "vocab", "merges")
HASH_CHUNK_BYTES = 16 << 20


def resolve_base(name: str, dtype: str = "bfloat16") -> BaseSpec:
    """The base called `name`, made or downloaded if need be. Raises InputError."""
    if dtype not in DTYPES:
        raise mistake_in(name, "dtype", dtype, f"one of {', '.join(DTYPES)}")
    if name in EMBEDDED:
        path = embedded_base(name)
    elif Path(name).expanduser().is_dir():
        path = _local(name, Path(name).expanduser().resolve())
    else:
        path = _from_hub(name)
    return BaseSpec(name=name, path=str(path), dtype=dtype)


def base_sha256(path: str) -> str:
    """SHA-256 over the names and bytes of the directory's safetensors files, in name order."""
    files = sorted(Path(path).glob("*.safetensors"))
    return _hash_files(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


def base_files_sha256(path: str) -> str:
    """SHA-256 of what makes the weights a model: config.json, the tokenizer's files and the chat template.

    Where a file was saved, and by which version of transformers, is left out.
    """
    digest = hashlib.sha256()
    for file in sorted(f for f in Path(path).iterdir() if f.is_file() and f.name.startswith(IDENTITY_FILES)):
        content = file.read_bytes()
        if file.suffix == ".json" and file.name != "tokenizer.json":
            settings = json.loads(content)
            for name in ("_name_or_path", "name_or_path", "transformers_version"):
                settings.pop(name, None)
            content = json.dumps(settings, sort_keys=True).encode()
        digest.update(f"{file.name}|{len(content)}|".encode() + content)
    return digest.hexdigest()


def num_parameters(path: str) -> int:
    """Of the directory's safetensors files, from their headers alone."""
    from safetensors import safe_open

    total = 0
    for file in Path(path).glob("*.safetensors"):
        with safe_open(str(file), framework="numpy") as held:
            total += sum(math.prod(held.get_slice(name).get_shape()) for name in held.keys())  # noqa: SIM118
    return total


@functools.lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(Path(path).name.encode())
        with open(path, "rb") as handle:
            while chunk := handle.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _local(name: str, path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise mistake_in(str(path), "base", name, "a directory with config.json, *.safetensors and the tokenizer")
    if not any(path.glob("*.safetensors")):
        fix = "a directory with *.safetensors beside config.json (convert others with save_pretrained)"
        raise mistake_in(str(path), "base", name, fix)
    if not any((path / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise mistake_in(
            str(path), "base", name, "a directory with tokenizer.json or tokenizer.model beside config.json"
        )
    return path


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    known = f"an embedded name ({', '.join(EMBEDDED)}), a local directory or a Hub id (owner/name)"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise mistake_in(name, "base", name, f"{known}; there is no such directory")
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, etag_timeout=10))
    except HFValidationError:
        raise mistake_in(name, "base", name, known) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fix = (
            f"in the Hub's cache, or to be had: the Hub gave nothing ({reason[:200]}). Without a network: give a local "
            f"directory, point HF_HOME at a cache that holds it, or use an embedded base ({', '.join(EMBEDDED)})"
        )
        raise mistake_in(name, "base", name, fix) from error
