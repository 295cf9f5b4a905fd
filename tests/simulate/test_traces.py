"""Reading traces, saying what is wrong with them, filtering, and turning rows into jobs."""

from __future__ import annotations

import dataclasses
import gzip
import json
import statistics
from pathlib import Path

import pytest

from mlora_ray.errors import InputError
from mlora_ray.simulate.synthetic import synthetic_philly
from mlora_ray.simulate.traces import TraceRow, filter_rows, read_trace
from mlora_ray.simulate.workload import WorkloadSettings, make_window
from tests.builders.jobs import STEPS

HEAD = "submit_s,duration_s,num_gpus,vc\n"


def write(folder: Path, text: str, name: str = "t.csv") -> str:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return str(path)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_philly_rows(tmp_path: Path, name: str) -> None:
    where = write(tmp_path, HEAD + "100,60,1,a\n160.5,7,8,b\n", name)
    assert read_trace(f"philly:{where}") == [TraceRow(0, 60, 1, "a"), TraceRow(60.5, 7, 8, "b")]


def test_other_formats(tmp_path: Path) -> None:
    helios = write(tmp_path, "job_id,user,vc,submit_s,duration_s,num_gpus\n1,u,v,5,20,2\n", "h.csv")
    assert read_trace(f"helios:{helios}") == [TraceRow(0, 20, 2, "v")]
    acme = "job_id,user,submit_time,duration,gpu_num\n1,u,2023-03-01 00:00:00,9.5,1\n2,w,2023-03-01 00:01:00,3,4\n"
    assert read_trace(f"acme:{write(tmp_path, acme, 'a.csv')}") == [TraceRow(0, 9.5, 1, "u"), TraceRow(60, 3, 4, "w")]
    lines = '{"submit_s": 1, "duration_s": 2}\n\n{"submit_s": 3, "duration_s": 4, "num_devices": 2, "tenant": "t"}\n'
    found = read_trace(f"jsonl:{write(tmp_path, lines, 'j.jsonl.gz')}")
    assert found == [TraceRow(0, 2, 1, "default"), TraceRow(2, 4, 2, "t")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD + "0,-5,1,a\n", "t.csv:2: duration_s must be seconds, 0 or more"),
        (HEAD + "0,5,1,a\n1,nan,x,a\n", "t.csv:3: duration_s must be "),
        (HEAD + "0,5,1.5,a\n", "num_gpus must be a whole number"),
        (HEAD + "9,5,1,a\n8,5,1,a\n", "t.csv:3: submit_s must be at least 9, which the row before has"),
        (HEAD + "9,5,inf,a\n", "t.csv:2: num_gpus must be "),
        (HEAD + "9,5,1," + "a" * 200_000 + "\n", "a CSV"),
        (
            "submit_s,num_gpus,vc\n0,1,a\n",
            "duration_s must be a column: those needed are submit_s, duration_s",
        ),
        (HEAD, "trace must be a file with rows; it has none"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        read_trace(f"philly:{write(tmp_path, text)}")
    assert why in str(caught.value)


def test_bad_names_and_files(tmp_path: Path) -> None:
    for name in ("philly", "borg:x", "synthetic:other", "philly:"):
        with pytest.raises(InputError, match="synthetic:philly"):
            read_trace(name)
    with pytest.raises(InputError, match="a readable file"):
        read_trace(f"philly:{tmp_path / 'none.csv'}")
    with pytest.raises(InputError, match=r"j.jsonl:2: line must be "):
        read_trace(
            f"jsonl:{write(tmp_path, json.dumps({'submit_s': 0, 'duration_s': 1}) + chr(10) + 'nothing', 'j.jsonl')}"
        )


def test_filters_say_what_they_took() -> None:
    rows = [TraceRow(0, d, g, "a") for d, g in ((10, 1), (100, 1), (100, 0), (100, 16), (99_999, 1))]
    kept = filter_rows(rows)
    assert kept.rows == [rows[1]]
    assert [num for _, num in kept.taken] == [1, 1, 1, 1]
    assert kept.share_of_jobs == pytest.approx(0.2)
    with pytest.raises(InputError, match=r"none is left of 5; taken by duration below 1e\+06 s: 5"):
        filter_rows(rows, min_s=1e6)


def test_synthetic_rows_have_phillys_shape() -> None:
    rows = [TraceRow(*row) for row in synthetic_philly(7)]
    assert rows == [TraceRow(*row) for row in synthetic_philly(7)] != [TraceRow(*row) for row in synthetic_philly(8)]
    durations = [r.duration_s for r in rows]
    assert 600 < statistics.median(durations) < 2400
    assert max(durations) > 7 * 86400
    kept = filter_rows(rows)
    assert 0.75 < kept.share_of_jobs < 0.95
    assert kept.share_of_device_time < 0.5, "most device time is in the few longest"
    assert 0.92 < sum(r.num_devices == 1 for r in rows) / len(rows) < 0.97
    days = [sum(r.submit_s // 86400 == day for r in rows) for day in range(60)]
    assert max(days) > 5 * statistics.median(days) / 2


def test_a_window_has_its_load_its_regime_and_anchored_work() -> None:
    rows = filter_rows([TraceRow(*row) for row in synthetic_philly(1)]).rows
    settings = WorkloadSettings(num_jobs=600, load=1.2, step_tokens=700.0, has_deadlines=True)
    jobs = make_window(rows, settings, STEPS, 3)
    assert jobs == make_window(rows, settings, STEPS, 3)
    assert [j.submit_s for j in jobs] == sorted(j.submit_s for j in jobs)
    work = sum(j.duration_s * j.width for j in jobs)
    assert work / (16 * (jobs[-1].submit_s - jobs[0].submit_s)) == pytest.approx(1.2, rel=0.2)
    assert statistics.mean(j.step_tokens for j in jobs) == pytest.approx(700, rel=0.15)
    for job in jobs:
        assert job.tokens == pytest.approx(job.duration_s * job.width * job.solo_tokens_s)
        assert job.declared_tokens == job.tokens
        assert job.deadline_s is None or 1.19 < (job.deadline_s - job.submit_s) / job.duration_s < 2.01
    assert 0.2 < sum(j.is_hard for j in jobs) / 600 < 0.45


def test_sizes_may_be_wrong_or_unknown_and_nothing_else_changes() -> None:
    rows = filter_rows([TraceRow(*row) for row in synthetic_philly(1)]).rows
    plain = make_window(rows, WorkloadSettings(num_jobs=50), STEPS, 3)
    wrong = make_window(rows, WorkloadSettings(num_jobs=50, size_sigma=0.7), STEPS, 3)
    hidden = make_window(rows, WorkloadSettings(num_jobs=50, is_size_known=False), STEPS, 3)
    assert all(
        a.tokens == b.tokens and a.declared_tokens != b.declared_tokens for a, b in zip(plain, wrong, strict=True)
    )
    assert [dataclasses.replace(j, declared_tokens=None) for j in plain] == hidden


def test_a_trace_without_enough_jobs_says_so() -> None:
    with pytest.raises(InputError, match="a trace with 600 jobs"):
        make_window([TraceRow(0, 100, 1, "a")], WorkloadSettings(), STEPS, 0)
