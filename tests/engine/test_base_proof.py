"""A base proves itself or is refused: which families are right, and that the proof sees what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from mlora_ray.bases.linear_shapes import is_plain_linear
from mlora_ray.bases.tiny_config import tiny_config
from mlora_ray.engine import base_proof, proof_cache
from mlora_ray.engine.base_proof import prove
from mlora_ray.errors import MloraError
from mlora_ray.types import BaseSpec
from tests.engine.families import EQUAL, WRONG, decoder_families, outcome

EQUAL_QUICK = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt_neox", "opt", "olmo2", "glm")
WRONG_QUICK = ("bloom", "xglm", "lfm2", "mamba", "gptj", "modernbert-decoder")


@pytest.mark.parametrize("family", EQUAL_QUICK)
def test_families_that_are_right_are_accepted(family: str) -> None:
    assert outcome(family) == ""


@pytest.mark.parametrize("family", WRONG_QUICK)
def test_families_that_are_wrong_are_refused(family: str) -> None:
    assert outcome(family) != ""


@pytest.mark.full
@pytest.mark.timeout(120)
@pytest.mark.parametrize("family", decoder_families())
def test_every_decoder_of_transformers(family: str) -> None:
    """None may change sides unseen: those known to be right stay so, those known to be wrong are refused."""
    reason = outcome(family)
    if family in EQUAL:
        assert reason == ""
    if family in WRONG:
        assert reason != ""


def test_the_proof_leaves_the_process_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    assert prove(transformers.LlamaConfig(), torch.bfloat16) == ""
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_rope_by_the_longest_position_of_a_row_is_refused() -> None:
    """Its frequencies, and so the bits, would change with the neighbours' lengths."""
    half = transformers.Phi3Config().hidden_size // transformers.Phi3Config().num_attention_heads // 2
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * half,
        "long_factor": [4.0] * half,
        "original_max_position_embeddings": 4096,
    }
    config = transformers.Phi3Config(
        rope_parameters=rope, max_position_embeddings=131072, original_max_position_embeddings=4096
    )
    assert "stock model gives one at a time" in prove(config, torch.bfloat16)


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_rope_that_does_not_change_with_the_row_is_accepted(rope: dict) -> None:
    config = transformers.LlamaConfig(rope_parameters=rope | {"rope_theta": 10000.0})
    assert prove(config, torch.bfloat16) == ""


def test_windows_are_shorter_than_the_sequences_tried() -> None:
    tiny = tiny_config(transformers.MistralConfig(sliding_window=4096))
    assert tiny.sliding_window < max(base_proof.LENGTHS)


def test_a_tiny_copy_has_every_kind_of_layer() -> None:
    config = transformers.Gemma3TextConfig()
    assert set(tiny_config(config).layer_types) == set(config.layer_types)


class _Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(x)


class _Plain(nn.Linear):
    pass


def test_linears_with_a_forward_of_their_own_are_not_replaced() -> None:
    assert [is_plain_linear(kind(2, 2)) for kind in (nn.Linear, _Plain, _Doubled)] == [True, True, False]


def test_an_answer_is_kept_by_config_and_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLORA_RAY_HOME", str(tmp_path))
    asked: list[torch.dtype] = []

    def counted(config: transformers.PreTrainedConfig, dtype: torch.dtype, device: str) -> str:
        asked.append(dtype)
        return prove(config, dtype, device)

    monkeypatch.setattr(proof_cache, "prove", counted)
    folder = tmp_path / "base"
    config = transformers.BloomConfig(hidden_size=32, n_head=2, n_layer=2, vocab_size=64)
    config.save_pretrained(folder)
    spec = BaseSpec(name="flower", path=str(folder), dtype="bfloat16")
    for _ in range(2):
        with pytest.raises(MloraError, match="'flower' cannot train here: packed sequences"):
            proof_cache.require_proof(spec)
    assert len(asked) == 1
    (kept,) = (tmp_path / "proofs").iterdir()
    kept.write_text("{")
    assert proof_cache.unfitness(spec)
    assert json.loads(kept.read_text())["model_type"] == "bloom"
    assert proof_cache.unfitness(BaseSpec(name="flower", path=str(folder), dtype="float32"))
    assert len(asked) == 3
