"""Everything before training: rows in storage, targets that fit the base, the cost, all mistakes at once."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BloomConfig, BloomForCausalLM

from mlora_ray.bases import target_modules
from mlora_ray.bases.linear_shapes import base_shapes, lora_shapes, num_lora_parameters
from mlora_ray.bases.target_modules import alpha_of
from mlora_ray.config.job_file import load_job_file, read_job_file
from mlora_ray.data.tokenized_rows import from_bytes, rows_sha256
from mlora_ray.errors import InputError, StorageError
from mlora_ray.prepare.cost_estimate import check_report, check_table
from mlora_ray.prepare.job_specs import prepare
from mlora_ray.types import JobSpec, LoraSpec
from tests.engine.peft_solo import as_peft


@pytest.fixture(scope="module", autouse=True)
def base_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny base, in a cache of this module's own."""
    from mlora_ray.bases.resolve import resolve_base

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLORA_RAY_HOME", str(tmp_path_factory.mktemp("home")))
        return resolve_base("tiny-llama").path


def job_file(folder: Path, base_path: str, *jobs: str, num_rows: int = 10) -> Path:
    for name in ("train", "eval"):
        rows = [{"prompt": f"{name} {i}", "completion": f"it is {i}"} for i in range(num_rows)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "".join(
        f"  - {{name: j{i}, train: train.jsonl{f', {job}' if job else ''}}}\n" for i, job in enumerate(jobs)
    )
    path = folder / "jobs.yaml"
    path.write_text(f"base: {base_path}\ndefaults: {{batch_size: 4, num_epochs: 2}}\njobs:\n{lines}")
    return path


def specs_of(folder: Path, base_path: str, *jobs: str) -> list[JobSpec]:
    return prepare(load_job_file(job_file(folder, base_path, *jobs)), str(folder / "data"))


def mistakes_of(folder: Path, base_path: str, *jobs: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        specs_of(folder, base_path, *jobs)
    return [str(m) for m in caught.value.mistakes]


def test_specs_point_at_rows_named_by_their_content(tmp_path: Path, base_path: str) -> None:
    (spec,) = specs_of(tmp_path, base_path, "eval: eval.jsonl, r: 4")
    assert (spec.base.path, spec.lora.r, spec.total_steps) == (base_path, 4, 6)
    assert spec.eval_rows is not None
    for ref in (spec.train_rows, spec.eval_rows):
        rows = from_bytes(Path(ref.uri).read_bytes())
        assert Path(ref.uri).name == f"{rows_sha256(rows)}.rows" == f"{ref.sha256}.rows"
        assert (ref.num_rows, ref.num_tokens) == (rows.num_rows, len(rows.tokens))
        assert ref.num_target_tokens == rows.num_targets().sum()
        assert ref.max_row_tokens == rows.lengths.max()
    assert spec.train_rows.sha256 != spec.eval_rows.sha256


def test_same_file_and_settings_are_stored_once(tmp_path: Path, base_path: str) -> None:
    specs = specs_of(tmp_path, base_path, "r: 2", "r: 4", "max_length: 20", "completion_only_loss: false")
    assert len({s.train_rows for s in specs[:2]}) == 1
    assert len({s.train_rows.sha256 for s in specs}) == 3
    assert len(list((tmp_path / "data").iterdir())) == 3
    again = prepare(load_job_file(tmp_path / "jobs.yaml"), str(tmp_path / "data"))
    assert again == specs


def test_nothing_is_written_when_only_checking(tmp_path: Path, base_path: str) -> None:
    specs = prepare(load_job_file(job_file(tmp_path, base_path, "r: 2")), None)
    assert specs[0].train_rows.uri == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eval.jsonl", "jobs.yaml", "train.jsonl"]


def test_rows_that_cannot_be_stored(tmp_path: Path, base_path: str) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        specs_of(tmp_path, base_path, "r: 2")


def test_max_steps_wins(tmp_path: Path, base_path: str) -> None:
    assert specs_of(tmp_path, base_path, "max_steps: 17")[0].total_steps == 17


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("target_modules: [q_proj, foo]", "target_modules must be all-linear, or what the base has: down_proj, gate"),
        ("target_modules: lm_head", "(found lm_head)"),
        ("target_modules: 'nothing.*'", "(found nothing.*)"),
        ("layers_to_transform: [0, 2]", "layers_to_transform must be layers 0 to 1 (found 2)"),
        ("rank_pattern: {embed: 2}", 'job "j0": rank_pattern must be a mapping from patterns that match adapted'),
        ("alpha_pattern: {embed: 2}", "(found embed)"),
        ("exclude_modules: [lm_head]", "exclude_modules must be a list of what the base has, or a regular expression"),
        ("exclude_modules: q_proj", "exclude_modules must be a list of what the base has, or a regular expression"),
        ("exclude_modules: '.*proj'", "target_modules must be at least one module; the base has down_proj"),
        (
            "layers_to_transform: 1, layers_pattern: h",
            "layers_pattern must be the base's list of layers; it has",
        ),
        ("max_length: 10", "10 of 10 rows have no target"),
    ],
)
def test_what_does_not_fit_the_base(tmp_path: Path, base_path: str, fields: str, said: str) -> None:
    found = mistakes_of(tmp_path, base_path, fields)
    assert said in found[0]


def test_mistakes_of_targets_and_rows_come_at_once_and_once_each(tmp_path: Path, base_path: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": ""}\n{\n')
    found = mistakes_of(
        tmp_path,
        base_path,
        "layers_to_transform: 9",
        "layers_to_transform: 9",
        "eval: bad.jsonl",
        "eval: bad.jsonl, max_length: 50",
    )
    assert len(found) == 2
    assert 'job "j0": layers_to_transform must be layers 0 to 1; 1 more job the same (found 9)' in found[0]
    assert "bad.jsonl:2: json" in found[1]


def test_data_is_read_even_if_the_base_is_missing(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    found = mistakes_of(tmp_path, "no-such-base", "eval: bad.jsonl")
    assert ["no-such-base" in found[0], "bad.jsonl:1" in found[1]] == [True, True]


def test_field_mistakes_hide_no_others(tmp_path: Path, base_path: str) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    path = job_file(tmp_path, base_path, "r: '8'", "layers_to_transform: 9", "eval: bad.jsonl", "target_modules: [foo]")
    with pytest.raises(InputError) as caught:
        prepare(read_job_file(path), str(tmp_path / "data"))
    said = [str(m) for m in caught.value.mistakes]
    assert len(said) == 4
    assert said[0].startswith(f"{path}:4: job \"j0\": r must be a valid integer (found the string '8')")
    assert said[1].startswith(f'{path}:5: job "j1": layers_to_transform must be layers 0 to 1 (found 9)')
    assert said[2].startswith(f'{path}:7: job "j3": target_modules must be all-linear')
    assert said[3].startswith(f"{tmp_path / 'bad.jsonl'}:1: json")
    assert not (tmp_path / "data").exists()


def test_base_and_length_mistakes_name_their_line_of_the_job_file(tmp_path: Path, base_path: str) -> None:
    path = job_file(tmp_path, "tiny-lama", "r: 2")
    for text, said in [
        (path.read_text(), f"{path}:1: base must be an embedded name"),
        (path.read_text().replace("tiny-lama", ""), f"{path}:1: base"),
        ("seed: 1\n" + job_file(tmp_path, base_path, "").read_text().replace("4, num", "4, max_length: 3, num"),
         f'{path}:3: job "j0": max_length must be larger: 10 of 10 rows have no target: in row 1 its first is token '),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            prepare(read_job_file(path), None)
        (found,) = caught.value.mistakes
        assert str(found).startswith(said)


def test_a_base_that_transformers_cannot_open(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (broken / name).write_text("{}")
    (found,) = mistakes_of(tmp_path, str(broken), "r: 2")
    assert "that transformers can load" in found


def test_rows_longer_than_the_base_takes(tmp_path: Path, base_path: str) -> None:
    path = job_file(tmp_path, base_path, "max_length: 100000, eval: long.jsonl")
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "1 " * 5000}))
    with pytest.raises(InputError, match="at most 4096, the base's longest row"):
        prepare(load_job_file(path), None)


def test_report_adds_up(tmp_path: Path, base_path: str) -> None:
    specs = specs_of(tmp_path, base_path, "r: 4, eval: eval.jsonl", "r: 2, target_modules: [q_proj]", "max_length: 19")
    report = check_report(specs, tokens_per_s=100.0)
    first, second, third = report["jobs"]
    assert second["lora_parameters"] == 2 * 2 * (64 + 64)
    assert second["adapter_bytes"] == 12 * second["lora_parameters"]
    assert "Memory without activations" in str(check_table(report).caption)
    assert first["trained_tokens"] == 2 * first["row_tokens"]
    assert (first["rows"], first["eval_rows"], first["truncated"]) == (10, 10, 0)
    assert (third["truncated"], third["longest_row"]) == (10, 19)
    assert report["trained_tokens"] == sum(job["trained_tokens"] for job in report["jobs"])
    assert report["seconds"] == pytest.approx(report["trained_tokens"] / 100, abs=0.1)
    json.dumps(report)
    table = check_table(report)
    assert table.row_count == 3


def test_a_rank_above_a_layer_s_smaller_side_is_taken_and_said(
    tmp_path: Path, base_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    specs = specs_of(tmp_path, base_path, "r: 40", "r: 40, seed: 1", "r: 32", "r: 4, rank_pattern: {up_proj: 100}")
    report = check_report(specs)
    first, second = report["warnings"]
    assert first == "job=j0 rank 40 of model.layers.0.self_attn.k_proj (64 x 32) is above 32, all it can use"
    assert second.startswith("job=j3 rank 100 of model.layers.0.mlp.up_proj (64 x ")
    assert "all it can use" in str(check_table(report).caption)
    assert [record.message.count("event=wide_rank") for record in caplog.records] == [1, 1]


def test_steps_that_follow_from_the_rows(tmp_path: Path, base_path: str) -> None:
    """10 rows in batches of 4 are 3 steps a data pass, 6 steps in all."""
    specs = specs_of(
        tmp_path,
        base_path,
        "eval_strategy: epoch, save_strategy: epoch",
        "eval_steps: 0.25, save_steps: 0.5",
        "eval_strategy: 'no', eval_steps: 7, save_strategy: 'no'",
        "eval_strategy: steps, eval_steps: 7",
        "warmup_steps: 0.5",
        "warmup_steps: 4",
    )
    assert [(s.train.eval_steps, s.train.save_steps) for s in specs[:4]] == [(3, 3), (2, 3), (0, 0), (7, 50)]
    assert [(s.train.warmup_ratio, s.train.warmup_steps) for s in specs[3:]] == [(0.0, 0), (0.5, 0), (0.0, 4)]


def test_five_hundred_jobs_are_checked_in_seconds(tmp_path: Path, base_path: str) -> None:
    path = job_file(tmp_path, base_path, *(f"r: {1 + i % 5}, seed: {i}" for i in range(500)), num_rows=40)
    start = time.process_time()
    assert len(check_report(prepare(load_job_file(path), None))["jobs"]) == 500
    assert time.process_time() - start < 10


PEFT_SPECS = [
    LoraSpec(),
    LoraSpec(r=4, target_modules=("q_proj", "v_proj")),
    LoraSpec(target_modules=("self_attn.q_proj", "down_proj"), rank_pattern=(("down_proj", 2), ("q_proj", 3))),
    LoraSpec(target_modules=("q_proj", "up_proj"), layers_to_transform=(1,)),
    LoraSpec(target_modules=(r".*\.0\..*proj",), rank_pattern=((r"layers.0.mlp.\w+", 5),)),
    LoraSpec(
        alpha_pattern=(("v_proj", 3.0), (r"layers.1.*", 5.0)), rank_pattern=((r"^model.layers.0.mlp.up_proj", 3),)
    ),
    LoraSpec(exclude_modules=("q_proj", "layers.1.mlp.down_proj"), use_rslora=True),
    LoraSpec(exclude_modules=(r"model\.layers\.0\..*|.*down_proj",)),
    LoraSpec(target_modules=("q_proj",), exclude_modules=(r"q_pro(j)",), alpha_pattern=(("proj", 9.0),)),
    LoraSpec(target_modules=("q_proj",), layers_to_transform=(1,), layers_pattern=("blocks", "layers")),
    LoraSpec(r=48, target_modules=("k_proj",)),
]


@pytest.mark.parametrize("lora", PEFT_SPECS)
def test_peft_adapts_the_same_modules_with_the_same_ranks(base_path: str, lora: LoraSpec) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_path))
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        use_rslora=lora.use_rslora,
        target_modules=as_peft(lora.target_modules),
        exclude_modules=as_peft(lora.exclude_modules) or None,
        layers_to_transform=list(lora.layers_to_transform) or None,
        layers_pattern=list(lora.layers_pattern) or None,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(base, config)
    expected = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default"): (m.in_features, m.out_features)
        for name, m in adapted.named_modules()
        if name.endswith(".lora_A.default")
    }
    ours = lora_shapes(base_path, lora)
    assert {name: (num_in, r) for name, (num_in, _, r) in ours.items()} == expected
    scales = {name: adapted.get_submodule(f"base_model.model.{name}").scaling["default"] for name in ours}
    ranks = {name: r**0.5 if lora.use_rslora else r for name, (_, _, r) in ours.items()}
    assert scales == {name: alpha_of(lora, name) / rank for name, rank in ranks.items()}
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert num_lora_parameters(base_path, lora) == trainable


@given(
    st.sets(st.sampled_from(["q_proj", "k_proj", "mlp.up_proj", "down_proj"]), min_size=1), st.sets(st.integers(0, 1))
)
@settings(max_examples=40, deadline=None)
def test_selection_is_a_subset_in_the_bases_order(base_path: str, names: set[str], layers: set[int]) -> None:
    linears = base_shapes(base_path).linears
    lora = LoraSpec(target_modules=tuple(names), layers_to_transform=tuple(layers))
    chosen = list(target_modules.select_targets(lora, linears))
    assert chosen == [name for name in linears if name in chosen]
    assert {target_modules.layer_index(name) for name in chosen} == (layers or {0, 1})
    assert len(chosen) == len(names) * len(layers or {0, 1})


def test_a_base_of_broken_files_or_a_refused_architecture_is_found_before_training(
    tmp_path: Path, base_path: str
) -> None:
    broken = Path(shutil.copytree(base_path, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    (found,) = mistakes_of(tmp_path, str(broken), "r: 2")
    assert "jobs.yaml:1: base" in found
    assert "model.safetensors: a whole safetensors file" in found
    flower = Path(shutil.copytree(base_path, tmp_path / "flower"))
    BloomForCausalLM(BloomConfig(hidden_size=32, n_head=2, n_layer=2, vocab_size=512)).save_pretrained(flower)
    (found,) = mistakes_of(tmp_path, str(flower), "r: 2")
    assert "an architecture that trains exactly here: packed sequences" in found
