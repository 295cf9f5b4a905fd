"""The job file: every mistake, with its line, all at once; and what a right file becomes."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlora_ray.config.job_file import JobFile, load_job_file
from mlora_ray.data.sources import DataFile, RowSettings
from mlora_ray.errors import InputError, Mistake
from mlora_ray.types import LoraSpec, TrainSpec


def write(folder: Path, text: str) -> Path:
    (folder / "rows.jsonl").write_text('{"text": "a b c"}\n')
    path = folder / "jobs.yaml"
    path.write_text(text)
    return path


def load(folder: Path, text: str) -> JobFile:
    return load_job_file(write(folder, text))


def mistakes(folder: Path, text: str) -> list[Mistake]:
    with pytest.raises(InputError) as caught:
        load(folder, text)
    return caught.value.mistakes


def one_job(**fields: str) -> str:
    """A job file with one job; its fields start on line 5."""
    lines = "".join(f"    {name}: {value}\n" for name, value in fields.items())
    return f"base: tiny-llama\njobs:\n  - name: a\n    train: rows.jsonl\n{lines}"


def the_mistake(folder: Path, **fields: str) -> Mistake:
    found = mistakes(folder, one_job(**fields))
    assert len(found) == 1, [str(m) for m in found]
    return found[0]


def test_every_field_arrives(tmp_path: Path) -> None:
    job = load(
        tmp_path,
        one_job(
            r="4",
            lora_alpha="32",
            lora_dropout="0.1",
            use_rslora="true",
            target_modules="[q_proj, v_proj]",
            layers_to_transform="[0, 1]",
            rank_pattern="{q_proj: 2}",
            init_lora_weights="gaussian",
            learning_rate="2e-4",
            loraplus_lr_ratio="16",
            lr_scheduler_type="cosine",
            warmup_ratio="0.1",
            weight_decay="0.01",
            max_grad_norm="0",
            optim="lion",
            batch_size="2",
            gradient_accumulation_steps="3",
            max_steps="7",
            max_length="64",
            eval_steps="5",
            save_steps="6",
            seed="9",
            completion_only_loss="false",
        ),
    ).jobs[0]
    assert job.lora == LoraSpec(
        r=4,
        lora_alpha=32.0,
        lora_dropout=0.1,
        use_rslora=True,
        target_modules=("q_proj", "v_proj"),
        layers_to_transform=(0, 1),
        rank_pattern=(("q_proj", 2),),
        init_lora_weights="gaussian",
    )
    assert job.train == TrainSpec(
        learning_rate=2e-4,
        loraplus_lr_ratio=16.0,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        weight_decay=0.01,
        max_grad_norm=0.0,
        optim="lion",
        batch_size=2,
        gradient_accumulation_steps=3,
        num_epochs=0.0,
        max_steps=7,
        max_length=64,
        eval_steps=5,
        save_steps=6,
        seed=9,
        completion_only_loss=False,
    )
    assert job.line == 3
    assert job.train_files == (DataFile(path=str(tmp_path / "rows.jsonl")),)
    assert job.eval_files == ()
    assert job.rows == RowSettings(max_length=64, completion_only_loss=False)


def test_defaults_of_types_hold(tmp_path: Path) -> None:
    job = load(tmp_path, one_job()).jobs[0]
    assert (job.lora, job.train) == (LoraSpec(), TrainSpec())


def test_defaults_seed_and_job_win_in_that_order(tmp_path: Path) -> None:
    text = """base: tiny-llama
seed: 5
dtype: float32
defaults: {r: 4, max_steps: 3, train_on: 1}
jobs:
  - {name: a, train: rows.jsonl}
  - {name: b, train: rows.jsonl, r: 2, num_epochs: 2, seed: 6}
""".replace(", train_on: 1", "")
    file = load(tmp_path, text)
    a, b = file.jobs
    assert (file.dtype, file.seed) == ("float32", 5)
    assert (a.lora.r, a.train.seed, a.train.max_steps, a.train.num_epochs) == (4, 5, 3, 0.0)
    assert (b.lora.r, b.train.seed, b.train.max_steps, b.train.num_epochs) == (2, 6, 0, 2.0)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("r", "0", "greater than or equal to 1"),
        ("r", "2.5", "valid integer"),
        ("r", '"8"', "valid integer"),
        ("r", "true", "valid integer"),
        ("lora_alpha", "0", "greater than 0"),
        ("lora_dropout", "1.0", "less than 1"),
        ("lora_dropout", "-0.1", "greater than or equal to 0"),
        ("use_rslora", "yes", "valid boolean"),
        ("target_modules", "3", "valid tuple"),
        ("target_modules", "[]", "all-linear"),
        ("target_modules", "[all-linear, q_proj]", "alone"),
        ("target_modules", '"(q"', "regular expression"),
        ("rank_pattern", "{q_proj: 0}", "at least 1"),
        ("init_lora_weights", "pissa", "rewrites or measures the base"),
        ("init_lora_weights", "zeros", "true, false, gaussian or orthogonal"),
        ("learning_rate", "-1e-4", "greater than or equal to 0"),
        ("learning_rate", ".nan", "finite"),
        ("learning_rate", ".inf", "finite"),
        ("learning_rate", "fast", "a number, not the string 'fast'"),
        ("learning_rate", "true", "a number, not true"),
        ("warmup_ratio", "1.5", "less than or equal to 1"),
        ("lr_scheduler_type", "linaer", "one of linear, cosine, "),
        ("lr_scheduler_type", "greedy", "a schedule of steps, such as cosine: greedy follows a metric"),
        ("optim", "adam", "adamw, sgd or lion"),
        ("optim", "adamw_bnb_8bit", "adamw, sgd or lion: an adapter's moments are small"),
        ("adam_beta2", "1.0", "less than 1"),
        ("warmup_steps", "10.5", "a whole number of steps, or below 1 the part"),
        ("eval_steps", "1.5", "a whole number of steps, or a part of all steps"),
        ("save_strategy", "best", "no, steps or epoch"),
        ("alpha_pattern", "{q_proj: 0}", "numbers above 0"),
        ("exclude_modules", "[q.*]", "a list of module names, or one regular expression"),
        ("layers_pattern", "3", "the name of the base's list of layers"),
        ("batch_size", "0", "greater than or equal to 1"),
        ("max_length", "1", "greater than or equal to 2"),
        ("num_epochs", "0", "above 0"),
        ("seed", "-1", "greater than or equal to 0"),
    ],
)
def test_value_out_of_range_names_line_field_and_value(tmp_path: Path, field: str, value: str, allowed: str) -> None:
    found = the_mistake(tmp_path, **{field: value})
    assert found.file == str(tmp_path / "jobs.yaml")
    assert found.line == 5
    assert (found.job, found.field.split("[")[0].split(".")[0]) == ("a", field)
    assert allowed in found.allowed


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("lora_alphas", "lora_alpha"),
        ("micro_batch_size", "batch_size"),
        ("evaluation_strategy", "eval_strategy"),
        ("exclude_module", "exclude_modules"),
        ("lora_r", "r"),
        ("lr", "learning_rate"),
    ],
)
def test_unknown_field_has_the_nearest_name(tmp_path: Path, written: str, meant: str) -> None:
    found = the_mistake(tmp_path, **{written: "1"})
    assert (found.line, found.value) == (5, "1")
    assert f"did you mean {meant}?" in found.allowed


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", ".hidden", "", "-a", "a b", "summary.json", "ü", "a" * 129])
def test_name_that_is_no_plain_name(tmp_path: Path, name: str) -> None:
    found = mistakes(tmp_path, f"base: b\njobs:\n  - train: rows.jsonl\n    name: {name!r}\n")
    assert [m.line for m in found] == [4] * len(found)
    assert found
    assert all(m.field == ("name" if name else "jobs[0].name") for m in found)


@given(st.text(min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_an_accepted_name_never_leaves_the_directory(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("names")
    escaped = name.encode("unicode_escape").decode().replace('"', '\\"') if name.isascii() else name
    try:
        jobs = load(folder, f'base: b\njobs:\n  - train: rows.jsonl\n    name: "{escaped}"\n').jobs
    except InputError:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", jobs[0].name)
    assert (folder / jobs[0].name).resolve().parent == folder.resolve()


def test_duplicate_names_tell_the_other_line(tmp_path: Path) -> None:
    text = "base: b\njobs:\n  - {name: a, train: rows.jsonl}\n  - {name: A, train: rows.jsonl}\n"
    (found,) = mistakes(tmp_path, text)
    assert found.line == 4
    assert "line 3 has it too" in found.allowed


def test_duplicate_key(tmp_path: Path) -> None:
    found = the_mistake(tmp_path, r="4", **{"r ": "8"})
    assert str(found).endswith('jobs.yaml:6: job "a": r must be given once; the first is on line 5')


def test_both_epochs_and_steps(tmp_path: Path) -> None:
    assert "not both" in the_mistake(tmp_path, max_steps="3", num_epochs="1").allowed


def test_orthogonal_wants_even_ranks(tmp_path: Path) -> None:
    assert "even" in the_mistake(tmp_path, init_lora_weights="orthogonal", r="3").allowed


def test_missing_file_is_told_where_it_is_named(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "base: b\njobs:\n  - name: a\n    train: no.jsonl\n")
    assert [(m.line, m.job, m.field, m.value) for m in found] == [(4, "a", "train", "no.jsonl")]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("owner/data", DataFile(path="hub:owner/data")),
        ("owner/data#test", DataFile(path="hub:owner/data", split="test")),
        ("owner/data#test[:10%]", DataFile(path="hub:owner/data", split="test", part=":10%")),
        ("owner/data[test]", DataFile(path="hub:owner/data", split="test")),
        ("owner/data[test][5:]", DataFile(path="hub:owner/data", split="test", part="5:")),
        ("owner/data[-9:]", DataFile(path="hub:owner/data", part="-9:")),
        ("hub:o/d", DataFile(path="hub:o/d")),
    ],
)
def test_hub_data_set(tmp_path: Path, written: str, read: DataFile) -> None:
    assert load(tmp_path, f"base: b\njobs:\n  - {{name: a, train: '{written}'}}\n").jobs[0].train_files == (read,)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("base: a\njobs:\n  - {name: a, train: b\n  x: : 3\n", 4, "expected"),
        ("base: a\n\tjobs: 3\n", 2, "token"),
        ("base: !!python/object:os.system a\n", 1, "without tags"),
        ("a: &x [*x]\n", 1, "contain itself"),
        ("", 1, "a mapping"),
        ("- 3\n", 1, "a mapping"),
    ],
)
def test_broken_yaml_has_a_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    (found,) = mistakes(tmp_path, text)
    assert found.line == line
    assert said in found.allowed


@pytest.mark.parametrize("jobs", ["", "jobs: []\n", "jobs: {a: 1}\n", "jobs: 3\n"])
def test_no_jobs(tmp_path: Path, jobs: str) -> None:
    (found,) = mistakes(tmp_path, f"base: b\n{jobs}")
    assert found.allowed == "a list of at least one job"


def test_no_such_job_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a readable YAML file"):
        load_job_file(tmp_path / "no.yaml")


def test_all_mistakes_come_at_once_in_order(tmp_path: Path) -> None:
    text = """base: tiny-llama
sed: 3
defaults: {lr: 1}
jobs:
  - {name: ../up, train: no.jsonl, r: 0}
  - {name: a, train: rows.jsonl, optim: adam, learning_rate: -1}
  - {name: a, train: rows.jsonl, num_epochs: 1, max_steps: 1}
  - 3
"""
    lines = [m.line for m in mistakes(tmp_path, text)]
    assert lines == sorted(lines)
    assert lines == [2, 3, 5, 5, 5, 6, 6, 7, 7, 8]


def test_merge_keys_and_aliases(tmp_path: Path) -> None:
    text = """base: b
defaults: &d {r: 4}
jobs:
  - &one {name: a, train: rows.jsonl, <<: *d}
  - {<<: *one, name: b}
"""
    jobs = load(tmp_path, text).jobs
    assert [(j.name, j.lora.r) for j in jobs] == [("a", 4), ("b", 4)]


def test_yaml_1_2_scalars(tmp_path: Path) -> None:
    text = """base: b
jobs:
  - {name: no, train: rows.jsonl, learning_rate: 1e-3}
  - {name: 2024-01-01, train: rows.jsonl}
"""
    assert [j.name for j in load(tmp_path, text).jobs] == ["no", "2024-01-01"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["r", "name", "x"]), inner),
        max_leaves=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_value_in_any_place_is_a_mistake_and_no_crash(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    import yaml

    folder = tmp_path_factory.mktemp("any")
    fields = (
        "r",
        "learning_rate",
        "target_modules",
        "rank_pattern",
        "layers_to_transform",
        "init_lora_weights",
        "name",
    )
    for document in (
        {"base": value, "jobs": [{"name": "a", "train": "rows.jsonl"}]},
        {"base": "b", "jobs": value},
        {"base": "b", "defaults": value, "jobs": [value]},
        {"base": "b", "jobs": [{"name": "a", "train": value, "eval": value}]},
        {"base": "b", "jobs": [{"name": "a", "train": "rows.jsonl", f: value} for f in fields]},
    ):
        with contextlib.suppress(InputError):
            load(folder, yaml.safe_dump(document))


@pytest.mark.parametrize(
    "field", ["max_steps", "batch_size", "gradient_accumulation_steps", "max_length", "num_epochs"]
)
def test_numbers_beyond_any_run(tmp_path: Path, field: str) -> None:
    found = the_mistake(tmp_path, **{field: "100000000000000000000000"})
    assert (found.line, "less than or equal to" in found.allowed) == (5, True)


@pytest.mark.parametrize("value", ["[]", "0", "''", "false"])
def test_defaults_that_are_no_mapping(tmp_path: Path, value: str) -> None:
    (found,) = mistakes(tmp_path, f"base: b\ndefaults: {value}\njobs:\n  - {{name: a, train: rows.jsonl}}\n")
    assert (found.line, found.field, found.allowed) == (2, "defaults", "a mapping of fields")


def test_a_wrong_type_is_shown_with_its_type(tmp_path: Path) -> None:
    found = the_mistake(tmp_path, r="'8'")
    assert str(found) == f"{found.file}:5: job \"a\": r must be a valid integer (found the string '8')"
    assert the_mistake(tmp_path, max_steps="1.5").value == "the number 1.5"
    assert the_mistake(tmp_path, use_rslora="1").value == "the number 1"
    odd = the_mistake(tmp_path, init_lora_weights="orthogonal", rank_pattern="{q_proj: 3}")
    assert str(odd).endswith('job "a": rank_pattern must be even, for orthogonal (found 3)')


def test_a_deadline_is_a_moment_wherever_it_is_read(tmp_path: Path) -> None:
    zulu = load(tmp_path, one_job(deadline="2030-01-31T17:00:00Z")).jobs[0]
    here = load(tmp_path, one_job(deadline="2030-01-31T18:00:00+01:00")).jobs[0]
    assert zulu.deadline_at_s == here.deadline_at_s == 1896109200.0
    assert load(tmp_path, one_job()).jobs[0].deadline_at_s is None
    assert "2030-01-31T17:00:00+00:00" in the_mistake(tmp_path, deadline="2030-01-31T17:00:00").allowed
    assert "not the string 'soon'" in the_mistake(tmp_path, deadline="soon").allowed
    assert "not the number 7" in the_mistake(tmp_path, deadline="7").allowed


def test_a_job_says_what_device_it_needs(tmp_path: Path) -> None:
    text = "base: tiny-llama\ndefaults: {device_type: cuda}\njobs:\n"
    text += "  - {name: a, train: rows.jsonl}\n  - {name: b, train: rows.jsonl, device_type: cpu}\n"
    assert [job.device_type for job in load(tmp_path, text).jobs] == ["cuda", "cpu"]
    assert load(tmp_path, one_job()).jobs[0].device_type == ""
    wrong = the_mistake(tmp_path, device_type="tpu")
    assert (wrong.line, wrong.field, wrong.value) == (5, "device_type", "tpu")
    assert wrong.allowed == "'cpu' or 'cuda'"
    assert the_mistake(tmp_path, device="cuda").allowed == "an unknown field; did you mean device_type?"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("r", '!!int "abc"', "r must be a number, as its tag !!int says"),
        ("learning_rate", '!!float "x"', "learning_rate must be a number, as its tag !!float says"),
        ("rank_pattern", "{'(?i)Q_PROJ': 4}", "rank_pattern must be a module name or a valid regular expression"),
        ("alpha_pattern", "{'(?i)Q_PROJ': 4}", "alpha_pattern must be a module name or a valid regular expression"),
        ("lr_scheduler_kwargs", "{num_cycles: 1}", "an unknown field; allowed: none here"),
    ],
)
def test_what_yaml_or_a_pattern_would_choke_on_is_a_mistake(tmp_path: Path, field: str, value: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, f"base: b\njobs:\n  - {{name: a, train: a.jsonl, {field}: {value}}}\n")
    assert said in str(raised.value)
