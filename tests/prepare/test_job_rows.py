"""Rows of jobs: several files and weights, what is dropped and said, and that no count is part of what a job is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mlora_ray.config.job_file import load_job_file
from mlora_ray.data.tokenized_rows import Rows, from_bytes
from mlora_ray.errors import InputError
from mlora_ray.prepare.cost_estimate import check_report, check_table
from mlora_ray.prepare.job_specs import prepare
from mlora_ray.types import JobSpec, RowCounts
from mlora_ray.types.job_identity import flat_fields, spec_sha256
from mlora_ray.types.serialization import dumps, loads


@pytest.fixture(scope="module", autouse=True)
def base_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny base, in a cache of this module's own."""
    from mlora_ray.bases.resolve import resolve_base

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLORA_RAY_HOME", str(tmp_path_factory.mktemp("home")))
        return resolve_base("tiny-llama").path


def write_rows(path: Path, num_rows: int, long: int = 0) -> None:
    """`num_rows` short rows, the last `long` of them with a prompt of 300 tokens and more."""
    rows = [
        {"prompt": f"{path.stem} {i}" + " z" * 300 * (i >= num_rows - long), "completion": f"it is {i}", "id": i}
        for i in range(num_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "a.jsonl", 10)
    write_rows(tmp_path / "b.jsonl", 6)
    write_rows(tmp_path / "long.jsonl", 8, long=3)
    return tmp_path


def job_file(folder: Path, base_path: str, *jobs: str) -> Path:
    path = folder / "jobs.yaml"
    lines = "".join(f"  - {{name: j{i}, {job}}}\n" for i, job in enumerate(jobs))
    path.write_text(f"base: {base_path}\ndefaults: {{batch_size: 4, num_epochs: 1, max_length: 200}}\njobs:\n{lines}")
    return path


def specs_of(folder: Path, base_path: str, *jobs: str) -> list[JobSpec]:
    return prepare(load_job_file(job_file(folder, base_path, *jobs)), str(folder / "stored"))


def mistakes_of(folder: Path, base_path: str, *jobs: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        specs_of(folder, base_path, *jobs)
    return [str(m) for m in caught.value.mistakes]


def stored(spec: JobSpec) -> Rows:
    return from_bytes(Path(spec.train_rows.uri).read_bytes())


def test_weights_repeat_and_draw_rows(folder: Path, base_path: str) -> None:
    (spec,) = specs_of(folder, base_path, "train: [a.jsonl, {path: b.jsonl, weight: 2.5}]")
    rows = spec.train_rows
    assert rows.num_rows == stored(spec).num_rows == 10 + 2 * 6 + 3
    assert [(f.source, f.weight, f.num_read, f.num_taken) for f in rows.counts.files] == [
        (str(folder / "a.jsonl"), 1.0, 10, 10),
        (str(folder / "b.jsonl"), 2.5, 6, 15),
    ]
    assert rows.source == f"{folder / 'a.jsonl'} + {folder / 'b.jsonl'}"


def test_the_jobs_seed_draws_and_whole_weights_do_not_need_it(folder: Path, base_path: str) -> None:
    half = "train: {path: a.jsonl, weight: 0.5}"
    first, second, again = specs_of(folder, base_path, f"{half}, seed: 1", f"{half}, seed: 2", f"{half}, seed: 1")
    assert first.train_rows.sha256 == again.train_rows.sha256 != second.train_rows.sha256
    twice = specs_of(folder, base_path, *(f"train: {{path: a.jsonl, weight: 2}}, seed: {i}" for i in (1, 2)))
    assert twice[0].train_rows == twice[1].train_rows


def test_a_list_of_one_file_is_that_file(folder: Path, base_path: str) -> None:
    one, listed, mapped = specs_of(
        folder, base_path, *(f"train: {t}" for t in ("a.jsonl", "[a.jsonl]", "{path: a.jsonl}"))
    )
    assert one.train_rows == listed.train_rows == mapped.train_rows


def test_slices_are_the_rows_of_the_whole(folder: Path, base_path: str) -> None:
    whole, head, tail = specs_of(folder, base_path, *(f"train: 'a.jsonl{part}'" for part in ("", "[:70%]", "[70%:]")))
    joined = specs_of(folder, base_path, "train: ['a.jsonl[:70%]', 'a.jsonl[70%:]']")[0]
    assert (head.train_rows.num_rows, tail.train_rows.num_rows) == (7, 3)
    assert joined.train_rows.sha256 == whole.train_rows.sha256
    assert head.train_rows.source.endswith("a.jsonl[:70%]")


def test_overlong_rows_are_dropped_and_counted(folder: Path, base_path: str) -> None:
    (spec,) = specs_of(folder, base_path, "train: [long.jsonl, a.jsonl], eval: long.jsonl")
    assert spec.train_rows.num_rows == 5 + 10
    assert [(f.num_read, f.num_dropped, f.num_taken) for f in spec.train_rows.counts.files] == [(8, 3, 5), (10, 0, 10)]
    assert spec.eval_rows is not None
    assert (spec.eval_rows.num_rows, spec.eval_rows.counts.num_dropped) == (5, 3)
    report = check_report([spec])
    assert (report["dropped"], report["jobs"][0]["dropped"], report["truncated"]) == (6, 6, 0)
    caption = str(check_table(report).caption)
    assert "j0: 6 rows dropped: no target within max_length" in caption
    assert "j0: not read: id" in caption
    assert f"{folder / 'long.jsonl'}: 8 rows, 3 dropped, weight 1: 5 a pass" in caption


def test_overlong_rows_as_asked(folder: Path, base_path: str) -> None:
    (kept,) = specs_of(folder, base_path, "train: long.jsonl, overlong: truncate")
    assert (kept.train_rows.num_rows, kept.train_rows.num_truncated, kept.train_rows.counts.num_dropped) == (8, 3, 0)
    assert stored(kept).num_targets()[-3:].tolist() == [0, 0, 0]
    (found,) = mistakes_of(folder, base_path, "train: long.jsonl, overlong: error")
    assert found.startswith(
        f'{folder / "jobs.yaml"}:2: job "j0": max_length must be larger: 3 of 8 rows have no target'
    )


def test_a_file_of_which_nothing_is_left(folder: Path, base_path: str) -> None:
    write_rows(folder / "all.jsonl", 4, long=4)
    (found,) = mistakes_of(folder, base_path, "train: all.jsonl")
    assert "max_length must be larger: 4 of 4 rows have no target" in found
    (spec,) = specs_of(folder, base_path, "train: [all.jsonl, a.jsonl]")
    assert (spec.train_rows.num_rows, spec.train_rows.counts.num_dropped) == (10, 4)
    (found,) = mistakes_of(folder, base_path, "train: {path: b.jsonl, weight: 0.01}")
    assert found.startswith(f'{folder / "jobs.yaml"}:4: job "j0": train must be a weight that takes a row')


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("train: a.jsonl, columns: {prompt: question}", '4: job "j0": columns.prompt must be a column of'),
        ("train: {path: a.jsonl, columns: {prompt: q}}", '4: job "j0": columns.prompt must be a column of'),
        ("train: 'a.jsonl[30:]'", '4: job "j0": train must be a slice with at least one of the 10 rows'),
        ("train: 'a.jsonl[test]'", '4: job "j0": train must be a slice such as [:90%]; a file has no splits'),
        ("train: a.jsonl, assistant_only_loss: true", '4: job "j0": assistant_only_loss must be a chat template'),
    ],
)
def test_mistakes_that_the_job_file_can_mend_are_at_its_line(folder: Path, base_path: str, job: str, said: str) -> None:
    (found,) = mistakes_of(folder, base_path, job)
    assert found.startswith(f"{folder / 'jobs.yaml'}:{said}")


def test_counts_are_no_part_of_what_a_job_is(folder: Path, base_path: str) -> None:
    spec, other = specs_of(folder, base_path, "train: long.jsonl", "train: 'long.jsonl[:5]'")
    assert spec.train_rows.sha256 == other.train_rows.sha256
    assert not [key for key in flat_fields(spec) if "counts" in key]
    bare = dataclasses.replace(spec, train_rows=dataclasses.replace(spec.train_rows, counts=RowCounts()))
    assert spec_sha256(spec) == spec_sha256(bare)
    assert loads(JobSpec, dumps(spec)) == spec


def test_the_working_directory_changes_nothing(
    folder: Path, base_path: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    saved = [{"prompt": f"ours {i}", "completion": "x"} for i in range(4)]
    datasets.Dataset.from_list(saved).save_to_disk(str(folder / "data" / "set"))
    path = job_file(folder, base_path, "train: data/set, eval: a.jsonl")
    here = prepare(load_job_file(path), None)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "data" / "set").mkdir(parents=True)
    write_rows(elsewhere / "data" / "set" / "train.jsonl", 2)
    write_rows(elsewhere / "a.jsonl", 2)
    monkeypatch.chdir(elsewhere)
    assert prepare(load_job_file(path), None) == here
    assert here[0].train_rows.num_rows == 4
