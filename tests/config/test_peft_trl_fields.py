"""Every field of PEFT, transformers and TRL is taken, harmless or refused with what to use instead."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlora_ray.config.job_fields import JOB_FIELDS, JOB_ONLY, OPTIMS, SYNONYMS
from mlora_ray.config.job_file import FILE_FIELDS, JobFileEntry, load_job_file
from mlora_ray.config.peft_trl_fields import FIELDS, LORA_CONFIG, SFT_CONFIG, TRAINING_ARGUMENTS, Harmless, Taken
from mlora_ray.errors import InputError, Mistake
from mlora_ray.types import LoraSpec, TrainSpec

# What TRL 1.16's SFTConfig has beside transformers' TrainingArguments, and its defaults.
SFT_DEFAULTS: dict[str, Any] = {
    "model_init_kwargs": None,
    "trust_remote_code": False,
    "router_aux_loss_coef": None,
    "chat_template_path": None,
    "dataset_text_field": "text",
    "dataset_kwargs": None,
    "dataset_num_proc": None,
    "eos_token": None,
    "max_length": 1024,
    "truncation_mode": "keep_start",
    "shuffle_dataset": False,
    "packing": False,
    "packing_strategy": "bfd",
    "padding_free": False,
    "pad_to_multiple_of": "auto",
    "eval_packing": None,
    "completion_only_loss": None,
    "assistant_only_loss": False,
    "loss_type": "nll",
    "activation_offloading": False,
    "pad_token": None,
}
# Fields of ours whose default is another: turns of the assistant and the first text column.
OTHER_DEFAULTS = {"dataset_text_field", "assistant_only_loss"}


def job(folder: Path, fields: dict[str, Any]) -> JobFileEntry:
    (folder / "rows.jsonl").write_text('{"text": "a b c"}\n')
    path = folder / "jobs.yaml"
    document = {"base": "b", "jobs": [{"name": "a", "train": "rows.jsonl", **fields}]}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_job_file(path).jobs[0]


def the_mistake(folder: Path, fields: dict[str, Any]) -> Mistake:
    with pytest.raises(InputError) as caught:
        job(folder, fields)
    assert len(caught.value.mistakes) == 1, [str(m) for m in caught.value.mistakes]
    return caught.value.mistakes[0]


def defaults_of(config: type) -> dict[str, Any]:
    """Every field of a dataclass with its default, as YAML holds it."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        out[field.name] = dataclasses.asdict(made) if dataclasses.is_dataclass(made) else made  # type: ignore[arg-type]
    return out


def test_no_field_of_theirs_is_missing() -> None:
    import peft
    import transformers

    assert LORA_CONFIG.keys() == {f.name for f in dataclasses.fields(peft.LoraConfig)}
    assert TRAINING_ARGUMENTS.keys() == {f.name for f in dataclasses.fields(transformers.TrainingArguments)}
    assert SFT_CONFIG.keys() == SFT_DEFAULTS.keys()


def test_what_is_taken_is_a_field_of_ours_and_only_that() -> None:
    ours = {*JOB_FIELDS, *JOB_ONLY, *FILE_FIELDS}
    assert {field.ours for field in FIELDS.values() if isinstance(field, Taken)} <= ours
    assert not {name for name, field in FIELDS.items() if isinstance(field, Harmless)} & ours
    assert set(SYNONYMS.values()) <= ours
    assert not SYNONYMS.keys() & (ours | FIELDS.keys())
    spec_fields = {f.name for kind in (LoraSpec, TrainSpec) for f in dataclasses.fields(kind)}
    assert spec_fields <= set(JOB_FIELDS)


def test_the_page_of_the_job_file_names_every_field_of_ours() -> None:
    text = (Path(__file__).parents[2] / "docs" / "job-file.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    assert {*JOB_FIELDS, *JOB_ONLY, *FILE_FIELDS} <= {name for row in rows for name in re.findall(r"\w+", row)}


def test_all_defaults_of_theirs_are_a_job(tmp_path: Path) -> None:
    import peft
    import transformers

    dump = defaults_of(transformers.TrainingArguments) | defaults_of(peft.LoraConfig) | SFT_DEFAULTS
    for name in ("target_modules", "rank_pattern", "alpha_pattern"):  # PEFT's default is a table of architectures
        dump[name] = {"target_modules": "all-linear"}.get(name, {})
    read = job(tmp_path, {name: value for name, value in dump.items() if name not in OTHER_DEFAULTS})
    assert read.lora == LoraSpec()
    assert read.train == TrainSpec(learning_rate=5e-5, save_steps=500, eval_steps=0)


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if isinstance(f, Harmless)])
def test_harmless_values_change_nothing_and_others_are_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    field = FIELDS[name]
    assert isinstance(field, Harmless)
    plain = job(tmp_path, {})
    for value in (None, *field.values) if field.instead else (None, True, 3, "x", [], {}):
        read = job(tmp_path, {name: value})
        assert (read.lora, read.train) == (plain.lora, plain.train)
    if not field.instead:
        return
    found = the_mistake(tmp_path, {name: "something-else"})
    assert (found.line, found.job, found.field, found.value) == (5, "a", name, "something-else")
    assert str(found).count(": ") >= 3
    assert found.allowed.endswith(field.instead)
    assert re.match(r"(left out|none|[\w ]+): \S", found.allowed), found.allowed


@pytest.mark.parametrize("name", sorted({*FIELDS, *JOB_FIELDS}))
def test_a_slip_of_the_pen_is_told_the_name_that_was_meant_or_none(tmp_path: Path, name: str) -> None:
    said = the_mistake(tmp_path, {name + "q": 1}).allowed
    assert said.startswith((f"an unknown field; did you mean {name}?", "an unknown field; allowed: "))
    assert len(name) < 4 or "did you mean" in said


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("exclude_moduls", "exclude_modules"),
        ("exclude_targets", ""),
        ("train_modules", ""),
        ("max_loss", ""),
        ("min_steps", ""),
        ("lora_beta", ""),
        ("use_flora", "use_rslora"),
    ],
)
def test_no_hint_is_better_than_a_misleading_one(tmp_path: Path, written: str, meant: str) -> None:
    said = the_mistake(tmp_path, {written: 1}).allowed
    assert said.startswith(f"an unknown field; {f'did you mean {meant}?' if meant else 'allowed: '}")


def test_true_is_not_one(tmp_path: Path) -> None:
    assert the_mistake(tmp_path, {"packing": 0}).allowed.startswith("false: ")
    assert the_mistake(tmp_path, {"label_smoothing_factor": False}).allowed.startswith("0: ")
    assert job(tmp_path, {"label_smoothing_factor": 0.0}).train == TrainSpec()


def test_a_default_that_is_written_is_the_same_job(tmp_path: Path) -> None:
    """Equal jobs have equal hashes, whatever names and defaults their files spell out."""
    fields = {"per_device_train_batch_size": 8, "num_train_epochs": 3, "optim": "adamw_torch_fused", "data_seed": 42}
    fields |= {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "warmup_steps": 0, "max_steps": -1}
    assert job(tmp_path, fields | {"eval_strategy": "no", "lr_scheduler_kwargs": {}}).train == TrainSpec()
    assert job(tmp_path, {"optim": "lion", "adam_beta2": 0.99, "adam_epsilon": 1e-6}).train == TrainSpec(optim="lion")
    assert job(tmp_path, {"optim": "sgd", "adam_beta1": 0.5, "adam_beta2": 0.5}).train == TrainSpec(optim="sgd")


def test_names_of_optimizers_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers.training_args import OptimizerNames

    for name in OptimizerNames:
        if name.value in OPTIMS:
            assert job(tmp_path, {"optim": name.value}).train.optim in ("adamw", "sgd", "lion")
        else:
            assert the_mistake(tmp_path, {"optim": name.value}).allowed.startswith("adamw, sgd or lion")
    bitsandbytes = job(tmp_path, {"optim": "lion_32bit"}).train
    assert (bitsandbytes.optim, bitsandbytes.adam_beta1, bitsandbytes.adam_beta2) == ("lion", 0.9, 0.999)


def test_trl_s_max_steps_wins_and_ours_do_not_go_together(tmp_path: Path) -> None:
    train = job(tmp_path, {"num_train_epochs": 3, "max_steps": 7}).train
    assert (train.max_steps, train.num_epochs) == (7, 0.0)
    assert "not both" in the_mistake(tmp_path, {"num_epochs": 3, "max_steps": 7}).allowed
    assert "not both" in the_mistake(tmp_path, {"warmup_steps": 3, "warmup_ratio": 0.1}).allowed
    same = the_mistake(tmp_path, {"batch_size": 4, "per_device_train_batch_size": 4})
    assert str(same).endswith(
        "per_device_train_batch_size must be left out beside batch_size, which is the same (found 4)"
    )


def test_a_mistake_names_the_field_as_it_was_written(tmp_path: Path) -> None:
    found = the_mistake(tmp_path, {"per_device_train_batch_size": 0})
    assert (found.field, found.line) == ("per_device_train_batch_size", 5)
    assert job(tmp_path, {"num_train_epochs": 2}).line_of("num_epochs") == 5


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        (
            {"lr_scheduler_type": "polynomial", "learning_rate": 1e-8},
            "lr_scheduler_kwargs.lr_end",
            "below learning_rate",
        ),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs.min_lr", "given, or min_lr_rate"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_kwargs.num_decay_steps", "required"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "lr_scheduler_kwargs.num_cycles", "an unknown field"),
        (
            {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 0.5}},
            "lr_scheduler_kwargs.num_cycles",
            "a valid integer",
        ),
        ({"layers_pattern": "layers"}, "layers_pattern", "left out where layers_to_transform is"),
        ({"eval_strategy": "steps"}, "eval_steps", "above 0 where eval_strategy is steps"),
        ({"base": "b"}, "base", "a field of the whole file; it stands at its top"),
    ],
)
def test_fields_that_do_not_go_together(tmp_path: Path, fields: dict[str, Any], field: str, said: str) -> None:
    found = the_mistake(tmp_path, fields)
    assert (found.job, found.field) == ("a", field)
    assert found.allowed.startswith(said)


def test_a_job_s_own_field_replaces_what_it_contradicts_in_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a b c"}\n')
    (tmp_path / "jobs.yaml").write_text("""base: b
defaults: {warmup_ratio: 0.1, lr_scheduler_type: cosine, lr_scheduler_kwargs: {num_cycles: 2}, eval_strategy: epoch}
jobs:
  - {name: a, train: rows.jsonl}
  - {name: b, train: rows.jsonl, warmup_steps: 5, lr_scheduler_type: linear, eval_steps: 9}
""")
    first, second = load_job_file(tmp_path / "jobs.yaml").jobs
    assert (first.train.warmup_ratio, first.train.lr_scheduler_kwargs) == (0.1, (("num_cycles", 2.0),))
    assert dict(first.relative_steps) == {"eval_steps": "epoch"}
    assert (second.train.warmup_ratio, second.train.warmup_steps, second.train.eval_steps) == (0.0, 5, 9)
    assert (second.train.lr_scheduler_kwargs, dict(second.relative_steps)) == ((), {})


def test_a_mistake_of_the_defaults_is_said_once_and_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a b c"}\n')
    path = tmp_path / "jobs.yaml"
    path.write_text("""base: b
dtype: float32
learning_rate: 1e-3
defaults:
  bf16: true
  init_lora_weights: orthogonal
  rank_pattern: {q_proj: 3}
jobs:
  - {name: a, train: rows.jsonl}
  - {name: b, train: rows.jsonl}
""")
    with pytest.raises(InputError) as caught:
        load_job_file(path)
    assert [str(m) for m in caught.value.mistakes] == [
        f"{path}:3: learning_rate is a field of a job; it stands in defaults or jobs (found 0.001)",
        f"{path}:5: defaults.bf16 must be false where dtype, at the top of the file, is float32 (found true)",
        f"{path}:7: defaults.rank_pattern must be even, for orthogonal (found 3)",
    ]
