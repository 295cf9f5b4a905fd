"""A base's files: whole, complete, and what config.json says; its identity is more than its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mlora_ray.bases.checkpoint_files import file_mistakes, refuse_custom_code, tensor_mistakes
from mlora_ray.bases.resolve import base_files_sha256, base_sha256, resolve_base
from mlora_ray.engine.base_loading import load_base
from mlora_ray.errors import InputError, MloraError
from mlora_ray.types import BaseSpec

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole() -> Path:
    return Path(resolve_base("tiny-llama").path)


@pytest.fixture
def folder(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "base"))


def edit_config(folder: Path, **settings: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    held = load_file(folder / WEIGHTS)
    change(held)
    save_file(held, folder / WEIGHTS, metadata={"format": "pt"})


def test_a_whole_base_has_no_mistakes(folder: Path) -> None:
    assert file_mistakes("b", str(folder)) + tensor_mistakes("b", str(folder)) == []


def test_tied_weights_are_no_mistake(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    edit_weights(folder, lambda held: held.pop("lm_head.weight"))
    assert tensor_mistakes("b", str(folder)) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda old: old[:-100], WEIGHTS),
        (lambda old: old[:4], WEIGHTS),
        (lambda _: b"", "0 bytes"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "text stands in its place"),
    ],
)
def test_files_that_are_not_whole(folder: Path, content: Callable[[bytes], bytes], said: str) -> None:
    (folder / WEIGHTS).write_bytes(content((folder / WEIGHTS).read_bytes()))
    (found,) = file_mistakes("b", str(folder))
    assert said in str(found)
    assert WEIGHTS in str(found)


def test_shards_that_are_not_there(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    (found,) = file_mistakes("b", str(folder))
    assert "model-2.safetensors" in str(found)


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (lambda held: held.pop(NORM), {}, f"random numbers: {NORM}"),
        (lambda held: held.update({NORM: torch.ones(3)}), {}, NORM),
        (lambda held: held.update(extra=torch.ones(3)), {}, "without a place in it: extra"),
        (lambda held: None, {"num_hidden_layers": 3}, "model.layers.2."),
        (lambda held: None, {"num_hidden_layers": 1}, "model.layers.1."),
    ],
)
def test_weights_that_are_not_what_the_config_says(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], settings: dict, said: str
) -> None:
    edit_weights(folder, change)
    edit_config(folder, **settings)
    found = tensor_mistakes("b", str(folder))
    assert said in " ".join(map(str, found))
    with pytest.raises(MloraError, match=said.split(": ")[-1].replace(".", r"\.")):
        load_base(BaseSpec(name="b", path=str(folder), dtype="float32"))


def test_custom_code_is_never_run(folder: Path) -> None:
    edit_config(folder, model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (folder / "modeling_mine.py").write_text("raise SystemExit('custom code ran')")
    with pytest.raises(InputError, match="custom code of a model repository is never run"):
        refuse_custom_code("b", str(folder))


def test_code_beside_an_architecture_of_transformers_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own class is used, and nobody is asked."""
    edit_config(folder, auto_map={"AutoModelForCausalLM": "m.Mine", "AutoConfig": "m.MineConfig"})
    (folder / "m.py").write_text("raise SystemExit('custom code ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    refuse_custom_code("b", str(folder))
    assert load_base(BaseSpec(name="b", path=str(folder), dtype="float32")).decoder.config.model_type == "llama"


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"])
def test_identity_is_more_than_weights(folder: Path, whole: Path, name: str) -> None:
    file = folder / name
    if file.suffix == ".json":
        file.write_text(json.dumps(json.loads(file.read_text()) | {"changed": 1}))
    else:
        file.write_text("{{ messages }}")
    assert base_files_sha256(str(folder)) != base_files_sha256(str(whole))
    assert base_sha256(str(folder)) == base_sha256(str(whole))


def test_identity_forgets_where_and_by_which_version_it_was_saved(folder: Path, whole: Path) -> None:
    edit_config(folder, transformers_version="9.9", _name_or_path="elsewhere")
    (folder / "README.md").write_text("another text")
    assert base_files_sha256(str(folder)) == base_files_sha256(str(whole))
