"""Jobs in Python as the document that a job file would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import peft
import pytest
import transformers
from datasets import Dataset, IterableDataset

import mlora_ray as mr
from mlora_ray.api.configs import default_target_modules, fields_of
from mlora_ray.api.jobs import document_of, written

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": None}]


def test_configs_and_fields_together_the_fields_win(tmp_path: Path) -> None:
    job = mr.Job("a", ROWS, lora=peft.LoraConfig(r=16, target_modules=["v_proj", "q_proj"]), args={"seed": 3}, r=4)
    (entry,) = document_of([job], "tiny-llama", tmp_path)["jobs"]
    assert entry["r"] == 4
    assert entry["target_modules"] == ["q_proj", "v_proj"]  # PEFT holds a set
    assert (entry["seed"], entry["train"]) == (3, "a.train.jsonl")


def test_a_field_wins_over_the_same_field_by_its_other_name(tmp_path: Path) -> None:
    args = transformers.TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=3)
    fields = mr.Job("a", ROWS, args=args, batch_size=2, num_epochs=1).fields
    assert fields["batch_size"] == 2
    assert "per_device_train_batch_size" not in fields
    assert mr.check([mr.Job("a", [ROWS[0]], lora=peft.LoraConfig(r=4), args=args)], "tiny-llama")["steps"] == 3


def test_a_lora_config_without_modules_is_pefts_choice_and_a_mapping_ours(tmp_path: Path) -> None:
    of_peft, ours = mr.Job("a", ROWS, lora=peft.LoraConfig()), mr.Job("b", ROWS, lora={"r": 2})
    first, second = document_of([of_peft, ours], "tiny-llama", tmp_path)["jobs"]
    assert first["target_modules"] == default_target_modules("tiny-llama") == ["q_proj", "v_proj"]
    assert "target_modules" not in second


def test_an_argument_that_we_take_is_said_at_its_default_and_others_where_they_were_set(tmp_path: Path) -> None:
    given = fields_of(transformers.TrainingArguments(output_dir=str(tmp_path), neftune_noise_alpha=5.0))
    assert given["learning_rate"] == 5e-5
    assert given["neftune_noise_alpha"] == 5.0
    assert "dataloader_num_workers" not in given


@pytest.mark.parametrize("rows", [ROWS, Dataset.from_list(ROWS), pd.DataFrame(ROWS), tuple(ROWS)])
def test_rows_in_memory_are_written_as_they_are(rows: Any, tmp_path: Path) -> None:
    assert written(rows, tmp_path, "a", "train") == "a.train.jsonl"
    assert pd.read_json(tmp_path / "a.train.jsonl", lines=True).to_dict("records") == pd.DataFrame(ROWS).to_dict(
        "records"
    )


def test_paths_are_from_here_and_hub_ids_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    assert written("rows.jsonl", tmp_path, "a", "train") == str(tmp_path / "rows.jsonl")
    assert written("rows.jsonl[:50%]", tmp_path, "a", "train") == f"{tmp_path}/rows.jsonl[:50%]"
    assert written(Path("gone.jsonl"), tmp_path, "a", "train") == str(tmp_path / "gone.jsonl")
    assert written("trl-lib/Capybara", tmp_path, "a", "train") == "trl-lib/Capybara"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["text"], None),
        ([1], "row 1 is a int"),
        ([{"prompt": object()}], "rows of text"),
        (IterableDataset.from_generator(lambda: iter(ROWS)), "of known length"),
        (7, "of known length"),
    ],
)
def test_rows_that_are_none_are_named(rows: Any, said: str | None, tmp_path: Path) -> None:
    if said is None:  # a list of texts is a list of files
        assert written(rows, tmp_path, "a", "train") == [str(Path("text").absolute())]
        return
    with pytest.raises(mr.InputError, match=said):
        written(rows, tmp_path, "a", "train")


def test_what_is_no_config_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not int"):
        mr.Job("a", ROWS, lora=3)  # type: ignore[arg-type]


def test_jobs_that_are_none_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(mr.InputError, match=r"a list of mlora_ray\.Job"):
        document_of([{"name": "a"}], "tiny-llama", tmp_path)  # type: ignore[list-item]
