"""The PEFT benchmark: its workloads, its arithmetic, and one small run of every contestant on the tiny base."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mlora_ray.bases.resolve import resolve_base
from mlora_ray.benchmarks import peft, workloads
from mlora_ray.errors import InputError


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Three public shapes of task files, converted."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.json").write_text(json.dumps({"examples": [{"input": "2 + 2", "target": "4"}] * 3}))
    (data / "b.jsonl").write_text('{"question": "a longer question", "answer": "yes"}\n' * 4)
    (data / "c.json").write_text(json.dumps([{"instruction": "sort b a", "output": "a b"}] * 2))
    folder = tmp_path / "sources"
    folder.mkdir()
    return workloads.convert_sources(data, folder)


def test_task_files_become_prompt_and_completion(sources: list[Path]) -> None:
    rows = [json.loads(path.read_text().splitlines()[0]) for path in sources]
    assert rows == [
        {"prompt": "2 + 2", "completion": "4"},
        {"prompt": "a longer question", "completion": "yes"},
        {"prompt": "sort b a", "completion": "a b"},
    ]


def test_a_task_file_without_known_fields_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "x", "answer": "y"}\n{"query": "x"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: row.*question/answer.*query"):
        workloads.convert_sources(tmp_path, tmp_path)


def test_workload_survives_the_folder(tmp_path: Path, sources: list[Path]) -> None:
    written = workloads.write_workload(tmp_path, "mixed", resolve_base("tiny-llama", "float32"), sources, steps=2)
    read = workloads.read_workload(tmp_path)
    assert [job.spec for job in read] == [job.spec for job in written]
    assert [(j.spec.lora.r, j.spec.train.batch_size) for j in read] == [(4, 1), (8, 2), (16, 4)]
    work = workloads.work_of(read)
    assert work == workloads.work_of(written)
    assert work.num_steps == 6
    assert work.num_tokens == sum(int(j.rows.lengths[j.step_rows(s)].sum()) for j in read for s in range(2))
    assert 0 < work.num_targets < work.num_tokens


def test_flop_of_the_base_by_hand() -> None:
    """Tiny base: 2 blocks of q 64x64, k v 32x64, o 64x64, gate up 128x64, down 64x128; head 512x64."""
    q, kv, o, mlp = 64 * 64, 2 * 32 * 64, 64 * 64, 3 * 128 * 64
    per_token = 2 * 4 * (q + kv + o + mlp) - 2 * (q + kv)
    assert peft._flop(resolve_base("tiny-llama").path) == peft.Flop(per_token, 4 * 512 * 64)


def test_unknown_workload_is_a_mistake() -> None:
    with pytest.raises(InputError, match=r"--workload.*mixed or batch1"):
        peft.run(workload="mixd")


@pytest.mark.full
def test_every_contestant_runs_and_the_row_is_whole(tmp_path: Path, sources: list[Path]) -> None:
    lines: list[str] = []
    data = str(sources[0].parent)
    result = peft.run(data=data, base="tiny-llama", dtype="float32", repeats=1, steps=1, log=lines.append)
    row = json.loads(json.dumps(result))["rows"][0]
    asked = ["workload", "dtype", "ours_tokens_per_cpu_s", "peft_tokens_per_cpu_s", "ratio_cpu", "ratio_wall"]
    assert set(row) >= {*asked, "gemm_share", "peak_bytes", "processes", "slowest_share"}
    assert row["ratio_cpu"] == pytest.approx(row["ours_tokens_per_cpu_s"] / row["peft_tokens_per_cpu_s"])
    assert row["processes"] == 3
    assert 0 < row["gemm_share"] < 1
    assert row["peak_bytes"] > 50_000_000
    assert set(result) >= {"command", "commit", "machine", "seed", "rows"}
    shown = io.StringIO()
    peft.print_table(result, Console(file=shown, width=120))
    assert "PEFT, 3 processes" in shown.getvalue()
