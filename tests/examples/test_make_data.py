"""The demo's data: seeded, train and eval rows apart, right answers, uneven sizes and lengths, all formats."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from mlora_ray.bases.tiny_tokenizer import make_tiny_tokenizer
from mlora_ray.config.job_file import load_job_file
from mlora_ray.data.sources import DataFile, RowSettings
from mlora_ray.data.tokenization import prepare_rows

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Row = dict[str, str]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_data", EXAMPLES / "make_data.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_data = _load()
NAMES = [task.name for task in make_data.TASKS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("demo") / "data"
    make_data.write_all(out, 7)
    return out


def rows(folder: Path, task: str, part: str) -> list[Row]:
    return [json.loads(line) for line in (folder / f"{task}.{part}.jsonl").read_text().splitlines()]


def question(row: Row) -> str:
    if "messages" in row:
        return json.dumps([m for m in row["messages"] if m["role"] != "assistant"])  # type: ignore[index]
    return json.dumps({k: v for k, v in row.items() if k not in ("completion", "output")})


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    make_data.write_all(tmp_path / "again", 7)
    make_data.write_all(tmp_path / "other", 8)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "other" / path.name).read_bytes() != path.read_bytes()


@pytest.mark.parametrize("task", NAMES)
def test_no_eval_question_is_trained_on(folder: Path, task: str) -> None:
    train, held_out = rows(folder, task, "train"), rows(folder, task, "eval")
    seen = {question(row) for row in train}
    assert len(seen) == len(train)
    assert not seen & {question(row) for row in held_out}
    assert 60 <= len(train) <= 240
    assert 12 <= len(held_out) <= 40


def test_sizes_lengths_and_formats_are_uneven(folder: Path) -> None:
    sizes, lengths, formats = set(), set(), set()
    for task in NAMES:
        file = DataFile(path=str(folder / f"{task}.train.jsonl"))
        prepared = prepare_rows(file, make_tiny_tokenizer(), RowSettings(max_length=2000))
        sizes.add(prepared.rows.num_rows)
        lengths.add(int(prepared.rows.lengths.max()))
        formats.add(frozenset(rows(folder, task, "train")[0]))
    assert len(sizes) == len(NAMES)
    assert max(lengths) > 4 * min(lengths)
    assert len(formats) == 4


def test_answers_are_right(folder: Path) -> None:
    factors = {(large, small): f for large, small, f in make_data.UNITS}
    for part in ("train", "eval"):
        for row in rows(folder, "units", part):
            left, a, right, b = (
                re.findall(r"(\d+) (\w+)", row["completion"])[0] + re.findall(r"(\d+) (\w+)", row["completion"])[1]
            )
            ratio = factors[a, b] if (a, b) in factors else 1 / factors[b, a]
            assert int(left) * ratio == pytest.approx(int(right))
        for row in rows(folder, "sorting", part):
            assert row["completion"].split(" < ") == sorted(row["prompt"].removeprefix("Sort: ").split())
        for row in rows(folder, "words", part):
            a, sign, b, _, result = row["output"].rstrip("!").split()
            numbers = [make_data.in_words(i) for i in range(100)]
            expected = numbers.index(a) + (1 if sign == "plus" else -1) * numbers.index(b)
            assert numbers.index(result) == expected


def test_extracted_orders_are_in_the_text(folder: Path) -> None:
    for row in rows(folder, "extraction", "train"):
        _, asked, answer = (m["content"] for m in row["messages"])  # type: ignore[index]
        order = json.loads(answer)
        price = order["total"] // order["n"]
        assert f"{order['who']} from {order['where']} ordered {order['n']} x {order['what']} at {price} euros" in asked


def test_the_job_file_names_every_task(folder: Path) -> None:
    path = folder.parent / "demo.yaml"
    path.write_text((EXAMPLES / "demo.yaml").read_text())
    jobs = load_job_file(path).jobs
    assert sorted(j.name for j in jobs) == sorted(NAMES)
    assert all(j.eval_files for j in jobs)
    assert {j.lora.r for j in jobs} == {4, 8, 16, 32}
    assert {j.train.batch_size for j in jobs} == {1, 2, 4, 8}
    assert len({j.train.learning_rate for j in jobs}) > 3
    assert len({j.train.lr_scheduler_type for j in jobs}) > 2
